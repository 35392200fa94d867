"""Named settings: the variants that the paper compares, and published settings that are not a method's defaults.

`alda train NAME` starts from one; every setting can still be changed.
"""

from alda.config import Config

PRESETS: dict[str, tuple[str, Config]] = {}
"""Name -> one line of description, and the settings."""
