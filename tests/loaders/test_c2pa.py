"""Exports signed with C2PA, read again with c2pa-python's own reader.

Without the package these tests are skipped; with ``BATCHRUNNER_LOADERS=required`` (CI) they fail.
"""

import datetime as dt
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import export as exporting
from batchrunner.app import verify_output
from batchrunner.app.export import ExportRequest
from batchrunner.errors import UsageError
from batchrunner.media.decoder_pool import Here
from batchrunner.workers.engines import Workers
from tests.datasets.sample_batches import Sample, make_batch, tree_of
from tests.datasets.test_xmp import frames
from tests.required import not_tested

URI = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Skip with a message, or fail if the package is required."""
    if find_spec("c2pa") is None:
        not_tested("C2PA", "BATCHRUNNER_LOADERS", "c2pa-python is not installed (pip install -e '.[c2pa]')")


def certificate(name: str, key: Any, issuer: tuple[str, Any] | None = None) -> Any:
    """Return a certificate for `key`, signed by an issuer; without one, that of an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(text: str) -> Any:
        names = ((NameOID.ORGANIZATION_NAME, "Test"), (NameOID.COMMON_NAME, text))
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in names])

    signer, signing_key = issuer or (name, key)
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    usage |= {"digital_signature": True, "key_cert_sign": issuer is None}
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(signer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2025, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2099, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if issuer is not None:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(signing_key, hashes.SHA256())


def elliptic() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def rsa_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(65537, 2048)


def credentials(folder: Path, make_key: Callable[[], Any] = elliptic, passphrase: bytes = b"") -> dict[str, Path]:
    """Write a key and its certificates. Return them as options."""
    from cryptography.hazmat.primitives import serialization as form

    root, key = elliptic(), make_key()
    chain = [certificate("signer", key, ("root", root)), certificate("root", root)]
    hidden = form.BestAvailableEncryption(passphrase) if passphrase else form.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, hidden))
    (folder / "chain.pem").write_bytes(b"".join(item.public_bytes(form.Encoding.PEM) for item in chain))
    return {"c2pa_key": folder / "key.pem", "c2pa_certificates": folder / "chain.pem"}


@pytest.fixture
def run(tmp_path: Path, clip: bytes, other_clip: bytes) -> Path:
    return make_batch(tmp_path, [Sample("a", clip), Sample("b", other_clip)]).path


def export(run: Path, out: Path, **options: Any) -> list[str]:
    said = list[str]()
    request = ExportRequest(mark="c2pa", version="0", **options)
    assert exporting.export([run], out, request, said.append, said.append) == 0
    return said


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "train" / "metadata.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("make_key", [elliptic, rsa_key])
def test_copies_are_signed_and_still_the_same_clips(run: Path, tmp_path: Path, make_key: Callable[[], Any]) -> None:
    from c2pa import Reader

    before = tree_of(run)
    export(run, out := tmp_path / "out", **credentials(tmp_path, make_key))
    assert tree_of(run) == before
    for row in rows(out):
        copy, original = out / "train" / row["file_name"], run / f"{row['id']}.mp4"
        assert (row["mark"], row["synthetic_marks"]) == ("c2pa", "c2pa")
        assert row["sha256"] == hashlib.sha256(copy.read_bytes()).hexdigest()
        assert row["original_sha256"] == hashlib.sha256(original.read_bytes()).hexdigest()
        assert frames(copy.read_bytes()) == frames(original.read_bytes())
        found = json.loads(Reader("video/mp4", io.BytesIO(copy.read_bytes())).json())
        [manifest] = found["manifests"].values()
        [actions] = [item["data"]["actions"] for item in manifest["assertions"] if "actions" in item["label"]]
        assert [action["digitalSourceType"] for action in actions] == [URI]
        problems = {item["code"] for item in found.get("validation_status", ())}
        assert problems <= {"signingCredential.untrusted"}, "the test's own authority is on no list"
    target = verify_output.recognize(out)
    assert target is not None
    assert [item for item in verify_output.check(target, Workers(Here()), deep=True) if item.kind] == []


def test_no_file_of_the_data_set_has_the_key(run: Path, tmp_path: Path) -> None:
    options = credentials(tmp_path)
    said = export(run, tmp_path / "out", **options)
    secret = b"".join(options["c2pa_key"].read_bytes().splitlines()[1:-1])[:40]
    assert not any(secret in content for content in tree_of(tmp_path / "out").values())
    assert not any(secret.decode() in line for line in said)


def test_a_signed_clip_is_left_alone(run: Path, tmp_path: Path) -> None:
    options = credentials(tmp_path)
    export(run, tmp_path / "out", **options)
    signed = tmp_path / "out" / "train" / rows(tmp_path / "out")[0]["file_name"]
    (again := tmp_path / "again").mkdir()
    second = make_batch(again, [Sample("a", signed.read_bytes())]).path
    said = export(second, again / "out", **options)
    assert rows(again / "out")[0]["mark"] == ""
    assert any("C2PA manifest already" in line for line in said)
    shutil.rmtree(again)


def test_a_signed_data_set_is_not_compared(run: Path, tmp_path: Path) -> None:
    options = credentials(tmp_path)
    export(run, tmp_path / "out", **options)
    with pytest.raises(UsageError, match="signatures differ each time"):
        export(run, tmp_path / "out", **options)


def test_a_key_that_cannot_sign_is_refused_without_its_content(run: Path, tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    good, foreign = credentials(tmp_path), credentials(other)
    junk = tmp_path / "junk.pem"
    junk.write_text("secret junk")
    (locked := tmp_path / "locked").mkdir()
    for wrong in (
        {**good, "c2pa_key": junk},
        {**good, "c2pa_key": foreign["c2pa_key"]},
        {**good, "c2pa_key": tmp_path / "nothing.pem"},
        {**good, "c2pa_certificates": junk},
        credentials(locked, passphrase=b"open"),
    ):
        with pytest.raises(UsageError) as caught:
            export(run, tmp_path / "out", **wrong)
        assert "secret junk" not in caught.value.message + caught.value.hint
        assert not (tmp_path / "out").exists()
