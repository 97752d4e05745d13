import sys
import types
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchrunner.errors import LocalFault
from batchrunner.storage.objects import credentials
from batchrunner.storage.objects.credentials import Credentials, Profile

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAENVIRONMENT", "AWS_SECRET_ACCESS_KEY": "secret-of-the-environment"}
STATIC = "aws_access_key_id = AKIA{0}\naws_secret_access_key = secret-of-{0}\n"


def write(home: Path, *, config: str = "", keys: str = "") -> Path:
    (home / ".aws").mkdir()
    (home / ".aws" / "config").write_text(config)
    (home / ".aws" / "credentials").write_text(keys)
    return home


def current(profile: Profile) -> Credentials:
    assert profile.source is not None
    return profile.source()


def test_the_environment_takes_precedence_over_a_profile(tmp_path: Path) -> None:
    home = write(tmp_path, keys="[default]\n" + STATIC.format("default"))
    expires = {"AWS_SESSION_TOKEN": "token", "AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z"}
    found = current(credentials.find(KEYS | expires, home))
    moment = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    assert found == Credentials("AKIAENVIRONMENT", "secret-of-the-environment", "token", moment)


def test_a_profile_has_keys_region_and_endpoint(tmp_path: Path) -> None:
    home = write(
        tmp_path,
        config="[profile clips]\nregion = eu-central-1\nendpoint_url = http://127.0.0.1:9\n[default]\nregion = x\n",
        keys="[clips]\n" + STATIC.format("clips") + "[default]\n" + STATIC.format("default"),
    )
    profile = credentials.find({"AWS_PROFILE": "clips"}, home)
    assert (profile.region, profile.endpoint) == ("eu-central-1", "http://127.0.0.1:9")
    assert current(profile).secret == "secret-of-clips"
    assert current(credentials.find({}, home)).secret == "secret-of-default"


def test_the_variables_name_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("[default]\n" + STATIC.format("mine"))
    assert current(credentials.find({"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "mine")}, tmp_path)).secret


def test_without_keys_the_role_of_the_machine_is_left_to_the_library(tmp_path: Path) -> None:
    assert credentials.find({"AWS_REGION": "eu-west-1"}, tmp_path) == Profile(None, "eu-west-1", "")


@pytest.mark.parametrize(
    ("environment", "config", "named"),
    [
        ({"AWS_PROFILE": "none"}, "", "'none'"),
        ({"AWS_PROFILE": "work"}, "[profile work]\nsso_session = corp\n", "boto3"),
        ({}, "[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = y\n", "boto3"),
        ({}, "no section, secret-in-a-line\n", "config"),
        ({"AWS_EC2_METADATA_DISABLED": "true"}, "", "no credentials"),
    ],
)
def test_an_unusable_profile_is_named_with_the_next_step(
    environment: dict[str, str], config: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(LocalFault) as caught:
        credentials.find(environment, write(tmp_path, config=config))
    assert named in caught.value.message
    assert caught.value.hint
    assert "secret-in-a-line" not in f"{caught.value.message} {caught.value.hint} {caught.value.__cause__}"
    assert caught.value.kind == "bucket_credentials"


@pytest.mark.parametrize(
    ("variable", "value", "kind"),
    [
        ("AWS_ENDPOINT_URL", "garbage", "bucket_unreachable"),
        ("AWS_ENDPOINT_URL", "ftp://store.example", "bucket_unreachable"),
        ("AWS_ENDPOINT_URL", "http://", "bucket_unreachable"),
        ("AWS_ENDPOINT_URL", "http://a b", "bucket_unreachable"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:99999", "bucket_unreachable"),
        ("AWS_ENDPOINT_URL", "http://user:hunter2hunter2@127.0.0.1", "bucket_unreachable"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1?token=hunter2hunter2", "bucket_unreachable"),
        ("AWS_REGION", "a\nb", "bucket_region"),
        ("AWS_REGION", "\u00fc", "bucket_region"),
        ("AWS_ACCESS_KEY_ID", "hunter2\nhunter2", "bucket_credentials"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2 hunter2", "bucket_credentials"),
        ("AWS_SESSION_TOKEN", "hunter2\u00fc", "bucket_credentials"),
    ],
)
def test_a_value_that_no_request_can_have_is_refused(variable: str, value: str, kind: str, tmp_path: Path) -> None:
    """The library ends with a panic for some of them."""
    with pytest.raises(LocalFault) as caught:
        credentials.find({**KEYS, variable: value}, tmp_path)
    assert caught.value.kind == kind
    assert caught.value.hint
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


def test_white_space_around_values_is_ignored(tmp_path: Path) -> None:
    spaced = {name: f" {value}\n" for name, value in KEYS.items()} | {"AWS_ENDPOINT_URL": " http://127.0.0.1:9/ "}
    profile = credentials.find(spaced, tmp_path)
    assert current(profile) == current(credentials.find(KEYS, tmp_path))
    assert profile.endpoint == "http://127.0.0.1:9/"


class _Login:
    """boto3's credentials of a login. expires: the end of the session."""

    def __init__(self, *, works: bool) -> None:
        self._works = works
        self._expiry_time = datetime(2030, 1, 1, tzinfo=UTC)

    def get_frozen_credentials(self) -> types.SimpleNamespace:
        if not self._works:
            raise ValueError("the token eyJsecrettoken has expired")
        return types.SimpleNamespace(access_key="AKIALOGIN", secret_key="secret-of-the-login", token="token")


@pytest.fixture(params=[True, False], ids=["works", "expired"])
def login(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    session = types.SimpleNamespace(get_credentials=lambda: _Login(works=request.param))
    boto3, botocore = types.ModuleType("boto3"), types.ModuleType("botocore.exceptions")
    vars(boto3)["Session"] = lambda profile_name: session
    vars(botocore).update(BotoCoreError=RuntimeError, ClientError=KeyError)
    monkeypatch.setitem(sys.modules, "boto3", boto3)
    monkeypatch.setitem(sys.modules, "botocore.exceptions", botocore)
    return bool(request.param)


def test_single_sign_on_comes_from_boto3(tmp_path: Path, login: bool) -> None:
    home = write(tmp_path, config="[profile work]\nsso_session = corp\nregion = eu-west-1\n")
    profile = credentials.find({"AWS_PROFILE": "work"}, home)
    if login:
        assert current(profile).expires_at == datetime(2030, 1, 1, tzinfo=UTC).timestamp()
        return
    with pytest.raises(LocalFault, match="work") as caught:
        current(profile)
    assert "aws sso login --profile work" in caught.value.hint
    assert "eyJsecrettoken" not in caught.value.message


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    profile = credentials.find(KEYS, tmp_path)
    text = f"{profile!r} {current(profile)!r}"
    assert not any(value in text for value in KEYS.values())
