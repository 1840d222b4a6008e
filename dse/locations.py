"""Where configurations lie: the shipped ones, and the user's own, which win."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from dse.errors import ConfigError

USER_CONFIGS = "DSE_CONFIG_PATH"


def config_dir() -> Path:
    """The shipped configurations: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def user_folders() -> list[Path]:
    """The folders of ``$DSE_CONFIG_PATH``, the one that wins first.

    Raises:
        ConfigError: one of them does not exist.
    """
    folders = [
        Path(f).expanduser().resolve() for f in os.environ.get(USER_CONFIGS, "").split(os.pathsep) if f
    ]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError("--config-dir or $" + USER_CONFIGS, folder, "a folder that exists")
    return folders


@contextmanager
def user_folder_first(folder: str | None) -> Iterator[None]:
    """While active, ``folder`` wins over those of ``$DSE_CONFIG_PATH``; None changes nothing."""
    before = os.environ.get(USER_CONFIGS)
    if folder is not None:
        os.environ[USER_CONFIGS] = os.pathsep.join([folder, *([before] if before else [])])
    try:
        yield
    finally:
        if before is not None:
            os.environ[USER_CONFIGS] = before
        else:
            os.environ.pop(USER_CONFIGS, None)


class UserConfigs(SearchPathPlugin):
    """Puts the folders of ``$DSE_CONFIG_PATH`` before the shipped ones, so that a user's file of the same name wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(user_folders()):
            search_path.prepend(provider="dse-user", path=f"file://{folder}")


def register_user_configs() -> None:
    """Make Hydra ask for the user's folders."""
    plugins = Plugins.instance()
    if UserConfigs not in plugins.discover(SearchPathPlugin):
        plugins.register(UserConfigs)


def config_names(group: str) -> list[str]:
    """Names of the configurations in a group, shipped and the user's."""
    folders = [config_dir(), *user_folders()]
    return sorted({f.stem for folder in folders for f in (folder / group).glob("*.yaml")})
