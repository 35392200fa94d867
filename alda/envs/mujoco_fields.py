"""dm_control 1.0.50 looks up every array that MuJoCo 3.17 has; MuJoCo 4 left out some, which nothing here uses."""

import functools


@functools.cache
def drop_missing_fields() -> None:
    """Takes what the installed mujoco lacks out of dm_control's tables of arrays, before any Physics reads them."""
    import mujoco
    from dm_control.mujoco.wrapper.mjbindings.sizes import array_sizes

    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    for table, struct in (("mjmodel", model), ("mjdata", mujoco.MjData(model))):
        for name in list(array_sizes[table]):
            if not hasattr(struct, name):
                del array_sizes[table][name]
