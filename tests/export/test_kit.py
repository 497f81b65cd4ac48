"""A kit is unpacked and run as a device would, with nothing of gemkit to import."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gemkit.errors import UserError
from gemkit.export import timing
from gemkit.export.kit import fit_measurements, read_measurements, write_kit
from networks import DIGITS, pools

SAMPLES = 12


def device(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run measure.py in a process whose imports of gemkit fail."""
    code = (
        "import sys, runpy; sys.modules['gemkit'] = sys.modules['onnx'] = None;"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", code, str(folder / "measure.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


@pytest.fixture(scope="module")
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked kit that has been measured."""
    folder = tmp_path_factory.mktemp("kit")
    seed = int(request.config.getoption("--seed"))
    manifest = write_kit(folder / "kit.zip", DIGITS, pools(seed), samples=SAMPLES, seed=seed)
    assert len(manifest["files"]) == SAMPLES
    again = write_kit(folder / "again.zip", DIGITS, pools(seed), samples=SAMPLES, seed=seed)
    assert again == manifest
    assert (folder / "kit.zip").read_bytes() == (folder / "again.zip").read_bytes()
    with zipfile.ZipFile(folder / "kit.zip") as archive:
        archive.extractall(folder)
    unpacked = folder / "gemkit-kit"
    done = device(unpacked, "--rounds", "2", "--seconds", "0.005")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{SAMPLES} of {SAMPLES} measured" in done.stdout
    assert "gemkit latency fit" in done.stdout
    return unpacked


def test_checksums(kit: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=kit, capture_output=True)
    assert done.returncode == 0


def test_measurements_become_a_model(kit: Path) -> None:
    skeleton, measured, where = read_measurements(kit / "measurements.json")
    assert skeleton == DIGITS
    assert len(measured) == SAMPLES
    assert where["machine"]["cores"] >= 1
    model = fit_measurements(kit / "measurements.json")
    assert model.device == where
    assert model.predict(pools(1)[0], 8)[0].min() > 0


def test_networks_are_compared_at_one_speed_of_the_device(kit: Path, tmp_path: Path) -> None:
    """Half of them were measured while the device was half as fast; 0.1 did not know it."""
    value = json.loads((kit / "measurements.json").read_text())
    for n, row in enumerate(value["measured"]):
        slow = 1 + n % 2
        row |= {"calm_ms": slow * (1.0 + n), "calibration_ms": 0.2 * slow}
        row["latency_ms"] = {"p50": 1.1 * row["calm_ms"]}
    path = tmp_path / "m.json"
    path.write_text(json.dumps(value))
    times = [one.latency_ms for one in read_measurements(path)[1]]
    assert times == pytest.approx([1.1 * (1 + n) for n in range(SAMPLES)])
    for row in value["measured"]:
        del row["calibration_ms"]
    path.write_text(json.dumps(value))
    times = [one.latency_ms for one in read_measurements(path)[1]]
    assert times == pytest.approx([1.1 * (1 + n) * (1 + n % 2) for n in range(SAMPLES)])


def test_goes_on_where_it_stopped(kit: Path, tmp_path: Path) -> None:
    value = json.loads((kit / "measurements.json").read_text())
    value["measured"] = value["measured"][:7]
    kept = {one["file"]: one for one in value["measured"]}
    out = tmp_path / "part.json"
    out.write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"holds 7 of the kit's 12 networks: start measure\.py"):
        fit_measurements(out)
    done = device(kit, "--rounds", "1", "--seconds", "0.001", "--out", str(out))
    assert done.returncode == 0
    rows = json.loads(out.read_text())["measured"]
    assert len(rows) == SAMPLES
    assert all(row == kept[row["file"]] for row in rows if row["file"] in kept)
    assert "all 12 networks are measured already" in device(kit, "--out", str(out)).stdout


def test_changed_kits_are_not_measured(kit: Path, tmp_path: Path) -> None:
    def refused(sentence: str, *arguments: str) -> None:
        done = device(kit, *arguments)
        assert done.returncode == 2
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1

    out = tmp_path / "m.json"
    value = json.loads((kit / "measurements.json").read_text())
    value["device"]["machine"]["processor"] = "another"
    out.write_text(json.dumps(value))
    refused("holds measurements on another device", "--out", str(out))
    value["manifest"]["id"] = "0"
    out.write_text(json.dumps(value))
    refused("holds measurements of another kit", "--out", str(out))
    out.write_text("{")
    refused("is damaged", "--out", str(out))
    whole = json.loads((kit / "measurements.json").read_text())
    out.write_text(json.dumps({**whole, "measured": [1]}))
    refused("is damaged", "--out", str(out))
    out.unlink()
    model = kit / "models" / "003.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    refused("models/003.onnx is missing or not as it was packed", "--out", str(out))
    model.write_bytes(content)
    manifest = (kit / "manifest.json").read_text()
    (kit / "manifest.json").write_text(manifest.replace('"width": ', '"width": 1', 1))
    refused("manifest.json was changed", "--out", str(out))
    (kit / "manifest.json").write_text(manifest)
    assert not out.exists()


def test_measurements_that_do_not_match(kit: Path, tmp_path: Path) -> None:
    good = (kit / "measurements.json").read_text()
    path = tmp_path / "m.json"

    def refused(change, sentence: str) -> None:
        value = json.loads(good)
        change(value)
        path.write_text(json.dumps(value))
        with pytest.raises(UserError, match=sentence):
            fit_measurements(path)

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gemkit-kit/measure.py", "")
    with pytest.raises(UserError, match=r"is a kit: unpack it .* measurements.json"):
        fit_measurements(path)
    refused(lambda v: v.update(kind="x"), "holds no measurements of a kit")
    refused(lambda v: v.update(format=2), "newer gemkit")
    refused(lambda v: v.pop("device"), "is damaged")
    refused(lambda v: v["device"].update(machine="a board"), "is damaged")
    third = json.loads(good)["manifest"]["files"][2]
    wider = {"width": third["width"] + 1}  # any fixed width might be its own already
    refused(lambda v: v["manifest"]["files"][2].update(wider), "own manifest, which was changed")
    refused(lambda v: v["measured"][2].update(sha256="0"), "does not match its own manifest")
    refused(lambda v: v["measured"][2].update(file="models/x.onnx"), "is not in it")
    refused(lambda v: v["measured"].append(v["measured"][0]), "twice")
    refused(lambda v: v["measured"][1].update(device={"other": 1}), "mixes measurements of several")
    refused(lambda v: v["measured"][1].update(calm_ms=None), "no positive number")
    refused(lambda v: v["measured"][1].pop("latency_ms"), "no positive number")
    refused(lambda v: v["measured"][1].update(calibration_ms=0), "no positive number")
    other = json.loads(good)
    other["device"]["machine"]["processor"] = "another"
    path.write_text(json.dumps(other))
    with pytest.raises(UserError, match="mix several devices"):
        fit_measurements(kit / "measurements.json", path)


def test_manifest_id_changes_with_every_value() -> None:
    manifest = {"kind": "k", "files": [{"file": "a", "width": 4}]}
    first = timing.manifest_id(manifest)
    assert timing.manifest_id({**manifest, "id": "x"}) == first
    manifest["files"][0]["width"] = 5
    assert timing.manifest_id(manifest) != first
