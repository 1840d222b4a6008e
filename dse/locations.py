"""Where configurations lie: the shipped ones, and the user's own, which win."""

from __future__ import annotations

import os
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

USER_CONFIGS = "DSE_CONFIG_PATH"


def config_dir() -> Path:
    """The shipped configurations: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


class UserConfigs(SearchPathPlugin):
    """Puts the folders of ``$DSE_CONFIG_PATH`` before the shipped ones, so that a user's file of the same name wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folders = [f for f in os.environ.get(USER_CONFIGS, "").split(os.pathsep) if f]
        for folder in reversed(folders):
            search_path.prepend(provider="dse-user", path=f"file://{Path(folder).expanduser().resolve()}")


def register_user_configs() -> None:
    """Make Hydra ask for the user's folders."""
    plugins = Plugins.instance()
    if UserConfigs not in plugins.discover(SearchPathPlugin):
        plugins.register(UserConfigs)


def config_names(group: str) -> list[str]:
    """Names of the configurations in a group, shipped and the user's."""
    folders = [config_dir(), *(Path(f) for f in os.environ.get(USER_CONFIGS, "").split(os.pathsep) if f)]
    return sorted({f.stem for folder in folders for f in (folder / group).glob("*.yaml")})
