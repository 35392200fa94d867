"""SAC on codes of single frames that the reward does not train, as ALDA and DARLA learn.

    frame -> encoder -> code -+-> history over frames -> actor, critic
                              '-> kept beside the frame in replay, if codes are stored

fresh: every update encodes the frames it samples, as published. stored: a frame is encoded when it arrives, again in
its turn while the encoder learns, and updates sample codes; then an update costs what SAC from states costs. Storing
embeddings for this purpose was proposed by Chen et al. (2021, SEER), who freeze the lower layers; here none is frozen.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from alda.agents.sac import SAC, ActorCriticConfig
from alda.nets.representation import FrameCodes
from alda.training.replay import Replay
from alda.types import EnvSpec, Metrics, Obs, Seen, Transition

_CHUNK = 256  # frames that are encoded at a time
_MEASURED = 4_096  # stored codes from which mean age and spread are estimated


@dataclass(frozen=True)
class FrameCodesConfig(ActorCriticConfig):
    codes: Literal["fresh", "stored"] = "fresh"
    """fresh: encode the sampled frames in every update, as published. stored: encode a frame when it arrives and learn
    from codes kept in replay, many times as fast; online and target networks then read the same codes."""


class SACOnCodes(SAC):
    config: FrameCodesConfig
    representation: FrameCodes
    target_representation: FrameCodes

    def __init__(self, config: FrameCodesConfig, spec: EnvSpec, representation: FrameCodes) -> None:
        super().__init__(config, spec, representation)
        if self.stores_codes:
            self.code_dim = representation.code_dim
            self.hot = (*self.hot, "encode")
            self.target_representation.read_codes_only()

    @property
    def stores_codes(self) -> bool:
        return self.config.codes == "stored"

    def observe(self, replay: Replay, obs: Obs) -> Seen:
        """Return frames or, with stored codes, codes; then only the newest frame is encoded."""
        if not self.stores_codes:
            return super().observe(replay, obs)
        self.encode_new(replay)
        return replay.newest_codes()

    def sample(self, replay: Replay) -> Transition:
        """Sample transitions of frames or, with stored codes, of codes."""
        if not self.stores_codes:
            return super().sample(replay)
        self.encode_new(replay)
        return replay.sample_codes(self.config.batch_size)

    def encode(self, frames: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n l"]:
        with torch.no_grad():
            return self.representation.codes(frames[:, None]).squeeze(1)

    def encode_new(self, replay: Replay) -> None:
        """Give a code to every frame in replay that has none."""
        while replay.coded < replay.written:
            place = replay.next_uncoded(_CHUNK)
            replay.write_codes(place, self.encode(replay.frames_at(place)))

    def refresh(self, replay: Replay, count: int) -> Metrics:
        """Encode the frames with the oldest codes again.

        codes/age: mean agent steps since a stored code was written; codes/oldest: the most of those encoded now.
        codes/drift: root mean square difference between these stored codes and fresh ones, in standard deviations of
        codes over replay; an upper bound, since they are the oldest.
        """
        place, some = replay.next_in_turn(count), replay.some_coded(_MEASURED)
        oldest, before, spread = replay.code_ages(place).max(), replay.codes_at(place), replay.codes_at(some).var(0)
        after = self.encode(replay.frames_at(place))
        metrics = {
            "codes/age": replay.code_ages(some).mean(),
            "codes/oldest": oldest,
            "codes/drift": ((after - before).square().mean() / spread.mean()).sqrt(),
        }
        replay.write_codes(place, after)
        return metrics
