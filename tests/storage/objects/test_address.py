import pytest

from batchrunner.errors import UsageError
from batchrunner.storage.objects.address import AllowedBuckets, ObjectAddress, is_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://clips/a/b.mp4", ("s3", "clips", "a/b.mp4")),
        ("S3://clips/ü %20#?.mp4", ("s3", "clips", "ü %20#?.mp4")),
        ("gs://clips", ("gs", "clips", "")),
        ("az://clips/", ("az", "clips", "")),
        ("s3://clips/prefix/", ("s3", "clips", "prefix/")),
    ],
)
def test_an_address_has_a_scheme_a_bucket_and_a_key(text: str, expected: tuple[str, str, str]) -> None:
    address = ObjectAddress.parse(text)
    assert (address.scheme, address.bucket, address.key) == expected
    assert ObjectAddress.parse(str(address)) == address
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/a.mp4",
        "clips/a.mp4",
        "s3:/clips/a",
        "s3:///a.mp4",
        "s3://a/x",
        "s3://clips//a.mp4",
        "s3://clips/a//b.mp4",
        "s3://clips/../a.mp4",
        "s3://clips/./a.mp4",
        "s3://clips/a\nb",
        "s3://cl ips/a",
        "s3://clips/" + "x" * 1025,
        "s3://clips/\ud800",
        "s3://clips:80/a",
    ],
)
def test_other_texts_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        ObjectAddress.parse(text)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(UsageError, match="password") as caught:
        ObjectAddress.parse("s3://AKIA123:hunter22secret@clips/a.mp4")
    assert "hunter22" not in f"{caught.value.message} {caught.value.hint}"


def test_a_bucket_that_the_user_does_not_name_is_refused_and_the_flag_is_named() -> None:
    allowed = AllowedBuckets.of(["clips"], ["gs://other"])
    allowed.check(ObjectAddress("s3", "clips", "a"))
    allowed.check(ObjectAddress("gs", "other", "a"))
    for address in (ObjectAddress("s3", "other", "a"), ObjectAddress("gs", "clips", "a"), ObjectAddress("s3", "clip")):
        with pytest.raises(UsageError, match="not allowed") as caught:
            allowed.check(address)
        assert f"--allow-bucket {address.place}" in caught.value.hint


@pytest.mark.parametrize("name", ["s3://clips/prefix", "", "a b", "https://clips"])
def test_only_whole_buckets_are_allowed(name: str) -> None:
    with pytest.raises(UsageError):
        AllowedBuckets.of([name])


def test_a_child_lies_below_its_prefix() -> None:
    assert str(ObjectAddress.parse("s3://clips/in/").child("a.mp4")) == "s3://clips/in/a.mp4"
    assert str(ObjectAddress.parse("s3://clips").child("a.mp4")) == "s3://clips/a.mp4"
