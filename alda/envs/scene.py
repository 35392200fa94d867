"""The look of a suite model, and its edits while the model lives: textures, materials, camera.

MuJoCo 3.12 anchored the texture of finite floors at a corner; before, it was centred. `visuals` says which of the two
is drawn: "classic", as in every published picture of these tasks, or "native", as the simulator does today.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from alda.envs.rendering import Profile, apply_profile, check_process

Visuals = Literal["classic", "native"]
_CAMERA = 0  # of the suite's models, the one that draws
_GEOM = 5  # mjOBJ_GEOM


class Scene:
    """A dm_control Physics as its camera draws it.

    The look is fixed when the scene is made, before its first picture creates the OpenGL context; afterwards textures
    must be uploaded to be seen, while materials and cameras are read at every picture.
    """

    def __init__(self, physics: Any, domain: str, *, image_size: int, profile: Profile, visuals: Visuals) -> None:
        self.physics, self.domain, self.image_size = physics, domain, image_size
        self._flags = apply_profile(physics.model, profile, image_size)
        self._floor_offset = _classic_offset(physics.model) if visuals == "classic" else (0, 0)
        self._camera: Any = None
        self.sky_factor = 1
        self.set_floor(self.texels("grid").copy())

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Draw the present state as the camera sees it."""
        drawn = self._render(render_flag_overrides=self._flags or None)
        return np.ascontiguousarray(drawn)  # a copy: the camera draws into the same buffer again

    def agent_mask(self) -> Bool[np.ndarray, "h w"]:
        """Return where the picture shows a moving body: neither floor nor sky nor what else is fixed to the ground.

        Tendons, as the string of ball_in_cup, are not counted.
        """
        drawn = self._render(segmentation=True)
        number, kind = drawn[..., 0], drawn[..., 1]
        model = self.physics.model
        moves = np.asarray(model.body_weldid)[np.asarray(model.geom_bodyid)] > 0  # 0: fixed
        return (kind == _GEOM) & moves[np.where(kind == _GEOM, number, 0)]

    def _render(self, **how: Any) -> np.ndarray:
        check_process()
        if self._camera is None:
            from dm_control.mujoco.engine import Camera

            self._camera = Camera(self.physics, self.image_size, self.image_size, camera_id=_CAMERA)
        return self._camera.render(**how)

    def texels(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Return a texture of the model, to be edited in place; `upload` makes the edit visible."""
        model = self.physics.model
        texture = model.name2id(name, "texture")
        height, width, first = model.tex_height[texture], model.tex_width[texture], model.tex_adr[texture]
        return model.tex_data[first : first + height * width * 3].reshape(height, width, 3)

    def shrink_sky(self, factor: int) -> None:
        """Give the sky `factor` times fewer texels each way, before the first picture.

        Small pictures hardly show it, since they average over as many; new colours are painted that much faster.
        """
        model, large = self.physics.model, self.texels("skybox")
        blocks = large.reshape(large.shape[0] // factor, factor, large.shape[1] // factor, factor, 3)
        small = blocks.mean((1, 3)).round().astype(np.uint8)
        texture = model.name2id("skybox", "texture")
        model.tex_height[texture], model.tex_width[texture] = small.shape[:2]
        self.texels("skybox")[:] = small
        self.sky_factor = factor

    def set_floor(self, texels: UInt8[np.ndarray, "h w 3"]) -> None:
        """Give the floor another texture, laid where `visuals` wants it; to be uploaded."""
        self.texels("grid")[:] = np.roll(texels, self._floor_offset, (0, 1))

    def upload(self, *names: str) -> None:
        """Make edited textures visible."""
        import mujoco  # chooses its OpenGL when imported, so not before the environment did

        model, contexts = self.physics.model, self.physics.contexts
        with contexts.gl.make_current() as gl:
            for name in names:
                gl.call(mujoco.mjr_uploadTexture, model.ptr, contexts.mujoco.ptr, model.name2id(name, "texture"))

    def set_sky(self, image: UInt8[np.ndarray, "size size 3"]) -> None:
        """Show one square image in all six directions, at once and without mipmaps.

        The model's own sky stays as it is. This takes a small part of the time of `upload`, which also computes the
        smaller versions that only a distant texture needs.
        """
        contexts = self.physics.contexts
        texture = int(contexts.mujoco.ptr.texture[self.physics.model.name2id("skybox", "texture")])
        with contexts.gl.make_current() as gl:
            gl.call(_fill_cube, texture, image)

    @property
    def trackcom(self) -> bool:
        """Whether the camera follows the body's centre of mass; else it stands still."""
        return int(self.physics.model.cam_mode[_CAMERA]) == 2  # mjCAMLIGHT_TRACKCOM

    def camera_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Return position [3] and orientation [3, 3] of the camera, which looks along its negative third column."""
        data = self.physics.data
        return data.cam_xpos[_CAMERA].copy(), data.cam_xmat[_CAMERA].reshape(3, 3).copy()

    def set_camera_pose(self, position: np.ndarray, orientation: np.ndarray) -> None:
        """Place the camera until the simulator moves on, which sets its own pose again."""
        self.physics.data.cam_xpos[_CAMERA] = position
        self.physics.data.cam_xmat[_CAMERA] = orientation.ravel()

    def center_of_mass(self) -> np.ndarray:
        """Return the centre of mass of the body and all that hangs on it, [3]."""
        return self.physics.data.subtree_com[1].copy()


def _classic_offset(model: Any) -> tuple[int, int]:
    """Return the texels by which older simulators' floors are shifted against today's: (rows, columns).

    A texture period is one metre and a plane of half-size s began s periods before its centre; the checker repeats
    after one period.
    """
    grid = model.name2id("grid", "material")
    floor = next((g for g in range(model.ngeom) if model.geom_type[g] == 0 and model.geom_matid[g] == grid), None)
    if floor is None:  # geom type 0 is a plane
        return 0, 0
    texture = model.name2id("grid", "texture")
    along_x, along_y, _ = model.geom_size[floor]
    rows, columns = model.tex_height[texture], model.tex_width[texture]
    return round((along_y / 2 + 0.5) * rows) % int(rows), round((along_x / 2 + 0.5) * columns) % int(columns)


def _fill_cube(texture: int, image: UInt8[np.ndarray, "size size 3"]) -> None:
    from OpenGL import GL

    side = len(image)
    cube = GL.GL_TEXTURE_CUBE_MAP
    GL.glBindTexture(cube, texture)
    GL.glPixelStorei(GL.GL_UNPACK_ALIGNMENT, 1)
    GL.glTexParameteri(cube, GL.GL_TEXTURE_MAX_LEVEL, 0)
    for face in range(6):
        target = GL.GL_TEXTURE_CUBE_MAP_POSITIVE_X + face
        GL.glTexImage2D(target, 0, GL.GL_RGB, side, side, 0, GL.GL_RGB, GL.GL_UNSIGNED_BYTE, image)
