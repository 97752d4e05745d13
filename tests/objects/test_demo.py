"""The whole demo with its inputs and its results in a bucket, as a user runs it: nothing stays on this machine."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.conftest import MEDIA, ROOT, encoded
from tests.objects.s3_server import ADMIN, BUCKET, Server, digests, put
from tests.soak.processes import call

PLACE = f"s3://{BUCKET}/demo"
DELIVERY = f"deliver: {PLACE}/results/\nkeep_local: no\n"
SECRETS = (*ADMIN, "X-Amz-Signature", "X-Amz-Credential")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_demo_runs_with_inputs_and_results_in_a_bucket(server: Server, tmp_path: Path) -> None:
    demo = (ROOT / "manifests" / "demo.yaml").read_text()
    assert demo.count(" media/") == 6
    (tmp_path / "demo.yaml").write_text(DELIVERY + demo.replace(" media/", f" {PLACE}/media/"))
    for path in MEDIA.iterdir():
        content = encoded(12) if path.suffix == ".mp4" else path.read_bytes()
        put(server, f"demo/media/{path.name}", content)
    variables = server.environment() | {"BATCHRUNNER_STATE": str(tmp_path / "state"), "HOME": str(tmp_path)}
    outputs: list[bytes] = []

    def command(*arguments: str) -> Any:
        done = call(*arguments, "--allow-bucket", BUCKET, cwd=tmp_path, **variables)
        outputs.extend((done.stdout.encode(), done.stderr.encode()))
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    command("run", "demo.yaml")
    run_directory = tmp_path / "output" / "demo"
    report = json.loads((run_directory / "report.json").read_text())
    results = digests(server, "demo/results")
    assert {row["file"]: row["sha256"] for row in report["jobs"]}.items() <= results.items()
    assert len(report["jobs"]) == 3
    assert list(run_directory.glob("*.mp4")) == []
    for name in ("report.json", "report.html", "results.csv"):
        assert results[name] == sha256(run_directory / name)
    assert all(row["inputs"]["video"]["source"].startswith(PLACE) for row in report["jobs"])

    assert "3 results checked, 0 bad" in command("verify", "output/demo").stdout
    assert "3 results checked, 0 bad" in command("verify", "demo.yaml").stdout
    assert "3 files checked, 0 bad. 3 clips decoded." in command("verify", "output/demo/report.json", "--deep").stdout
    assert f"3 clips in {PLACE}/results/" in command("status", "demo.yaml").stdout
    command("report", "demo.yaml")
    page = (run_directory / "report.html").read_text()
    assert page.count("data:image/webp") >= 3
    assert f"The clips are only in <bdi>{PLACE}/results/</bdi>" in page
    assert "accepted" in command("review", "demo.yaml", "--accept", "bunny-as-admiral").stdout
    command("export", "demo.yaml", "set", "--format", "folder")
    exported = {sha256(path) for path in (tmp_path / "set").rglob("*.mp4")}
    assert {row["sha256"] for row in report["jobs"]} <= exported
    command("export", "demo.yaml", f"{PLACE}/set/", "--format", "folder")
    files = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    assert digests(server, "demo/set") == {str(path.relative_to(tmp_path / "set")): sha256(path) for path in files}
    assert ", 0 bad. 3 clips decoded." in command("verify", f"{PLACE}/set/", "--deep").stdout
    assert "3 files checked, 0 bad" in command("verify", f"{PLACE}/results/").stdout
    assert "is up to date" in command("export", "demo.yaml", f"{PLACE}/set/", "--format", "folder").stdout

    again = command("run", "demo.yaml")
    assert "3 of 3 jobs succeeded" in again.stdout + again.stderr
    ledger = (run_directory / ".batchrunner" / "sandbox" / "ledger.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["event"] == "accepted" for line in ledger) == 3
    written = {str(path): path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    texts = [*outputs, *written.values(), *server.contents("demo/results").values()]
    assert [text[:100] for text in texts for secret in SECRETS if secret.encode() in text] == []
