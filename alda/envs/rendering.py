"""Headless rendering: which OpenGL to use, what the renderer is called, and how much work a frame may be.

Profiles (measured on software rendering, walker, 64x64, against the model as it is):
    exact   the simulator's own settings                                                13 ms a frame
    near    smaller shadow map, coarser round shapes: 2.3 % of pixels differ visibly     3 ms
    fast    no shadows, mirrors or smoothing: another look (16 % differ), for debugging  0.9 ms
"""

import functools
import importlib
import os
import sys
from ctypes.util import find_library
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Literal

from alda.errors import UserError

Profile = Literal["exact", "near", "fast"]
_PACKAGES = "libegl1 libopengl0 libgl1-mesa-dri"
_HELP = (
    f"install one, on Debian or Ubuntu: apt-get install --no-install-recommends {_PACKAGES}; or name another with "
    "MUJOCO_GL=osmesa or, where there is a screen, MUJOCO_GL=glfw"
)


def load_suite() -> ModuleType:
    """Import dm_control.suite with a renderer that works here. Raises UserError where none does."""
    _load_triton_first()
    _choose_opengl()
    try:
        from dm_control import suite
    except (ImportError, AttributeError, RuntimeError) as error:
        raise _not_started(error) from error
    _drop_missing_fields()
    return suite


def apply_profile(model: Any, profile: Profile, image_size: int) -> dict[str, bool]:
    """Set the model's visual quality, before its OpenGL context exists; return the render flags to override."""
    model.vis.global_.offwidth = model.vis.global_.offheight = image_size  # the picture itself is unchanged
    if profile == "near":
        model.vis.quality.shadowsize = 256
        model.vis.quality.numslices, model.vis.quality.numstacks = 12, 8
    if profile == "fast":
        model.vis.quality.offsamples = 0
        return {"shadow": False, "reflection": False}
    return {}


@functools.cache
def renderer_name() -> str:
    """Return OpenGL's name for itself, as in 'llvmpipe (LLVM 15.0.6, 256 bits)'. Raises UserError without OpenGL."""
    load_suite()
    _drawing_process()
    try:
        from dm_control._render import Renderer  # mujoco's own would leave environments without their context

        renderer = Renderer(16, 16)
        with renderer.make_current() as context:
            from OpenGL import GL

            name: str = context.call(GL.glGetString, GL.GL_RENDERER).decode()
        renderer.free()
    except Exception as error:  # each OpenGL platform fails in its own way
        raise _not_started(error) from error
    return name


def _not_started(error: BaseException) -> UserError:
    """Return what to do about a renderer that could not start."""
    if type(getattr(sys.modules.get("OpenGL.platform"), "PLATFORM", None)).__name__ == "GLXPlatform":
        return UserError(
            "dm_control or OpenGL was imported before the first environment and expects a screen: make an environment "
            "of alda first, or set MUJOCO_GL=egl and PYOPENGL_PLATFORM=egl before Python starts"
        )
    return UserError(f"MuJoCo's renderer could not start ({error}); {_HELP}")


def check_process() -> None:
    """Raise UserError in a process that was forked from one that draws on a GPU or with threads, which are lost."""
    alone = _software() and os.environ.get("LP_NUM_THREADS") == "0"  # asked in the first process, known in the others
    if _drawing_process() != os.getpid() and not alone:
        raise UserError(
            "OpenGL was in use when this process was forked, and cannot be used here: start processes by spawn or "
            'forkserver, as in multiprocessing.get_context("spawn"), or before the first environment is made'
        )


@functools.cache
def _drawing_process() -> int:
    """Return the process that asked first; forked ones inherit the answer."""
    return os.getpid()


def default_profile() -> Profile:
    """Return `near` on software rendering, `exact` on a GPU."""
    return "near" if _software() else "exact"


def _software() -> bool:
    return any(word in renderer_name().lower() for word in ("llvmpipe", "softpipe", "swrast", "software"))


@functools.cache
def _drop_missing_fields() -> None:
    """Take what the installed MuJoCo lacks out of dm_control's tables of arrays, before any Physics reads them.

    dm_control 1.0.50 looks up every array that MuJoCo 3.17 has; MuJoCo 4 left out some, which nothing here uses.
    """
    import mujoco
    from dm_control.mujoco.wrapper.mjbindings.sizes import array_sizes

    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    for table, struct in (("mjmodel", model), ("mjdata", mujoco.MjData(model))):
        for name in list(array_sizes[table]):
            if not hasattr(struct, name):
                del array_sizes[table][name]


@functools.cache
def _load_triton_first() -> None:
    """Load triton, where it is installed, before OpenGL.

    Both bring an LLVM of their own. A process that renders with Mesa first and imports triton later, as PyTorch's
    optimisers do, dies with a segmentation fault; the other order works.
    """
    if find_spec("triton") is not None:
        importlib.import_module("triton")


def _choose_opengl() -> None:
    """Draw without a screen: by EGL, or by OSMesa where there is no EGL, unless MUJOCO_GL already says.

    In software without threads, which gain nothing at 64 pixels and which a forked process would wait for.
    """
    if sys.platform == "linux":
        os.environ.setdefault("LP_NUM_THREADS", "0")
        os.environ.setdefault("MUJOCO_GL", "osmesa" if find_library("EGL") is None else "egl")
