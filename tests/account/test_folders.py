"""The state folder and config.yaml, as the platform and the environment have them."""

from pathlib import Path

from batchrunner.account.folders import config_file, state_folder


def test_a_variable_moves_the_state_folder(tmp_path: Path) -> None:
    assert state_folder({"BATCHRUNNER_STATE": str(tmp_path), "XDG_STATE_HOME": "/elsewhere"}) == tmp_path


def test_the_home_folder_is_expanded(tmp_path: Path) -> None:
    assert state_folder({"BATCHRUNNER_STATE": "~/here"}) == Path("~/here").expanduser()


def test_xdg_names_the_folders(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path / "s"), "XDG_CONFIG_HOME": str(tmp_path / "c")}
    assert state_folder(environment) == tmp_path / "s" / "batchrunner"
    assert config_file(environment) == tmp_path / "c" / "batchrunner" / "config.yaml"


def test_without_variables_the_platform_decides() -> None:
    assert state_folder({}).is_absolute()
    assert config_file({"XDG_CONFIG_HOME": "relative"}).name == "config.yaml"
    assert config_file({"XDG_CONFIG_HOME": "relative"}).is_absolute()
