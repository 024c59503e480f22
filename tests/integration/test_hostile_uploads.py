"""The worst of the hostile files, uploaded over HTTP: each becomes a rejected data set with reasons, and the service goes on."""

from pathlib import Path

import httpx

from tests.worker.ingest.hostile_corpus import betrays, corpus, make_canary
from worker.embedded import EmbeddedService

WORST = (
    "lfads_hdf5:train_data:external_storage", "lfads_hdf5:train_extra:external_link", "hdf5:spikes:virtual",
    "hdf5:spikes:sparse_beyond_64_bits", "nwb:units/spike_times:external_link", "nwb:spike_times_index:giant",
    "npz:pickle:spikes.npy", "npz:overlapping", "phy:soft_link:spike_times.npy", "matlab5:nested_10000",
)  # fmt: skip


def test_the_worst_files_are_rejected_and_the_service_goes_on(
    service: EmbeddedService, spikes_file: Path, tmp_path: Path
) -> None:
    canary = make_canary(tmp_path / "server")
    worst = {file.name: file for file in corpus() if file.name in WORST}
    assert set(worst) == set(WORST)
    with httpx.Client(base_url=service.url, timeout=60) as client:
        for name, file in worst.items():
            file.make(tmp_path / "upload", canary)
            answer = client.post(
                "/v1/datasets", content=(tmp_path / "upload").read_bytes(), headers={"Prefer": "wait=30"}
            )
            (tmp_path / "upload").unlink()
            assert answer.status_code in (201, 202), (name, answer.text)
            link = answer.json()["links"]["self"]
            dataset = client.get(link, headers={"Prefer": "wait=30"}).json()
            assert dataset["state"] == "rejected", (name, dataset)
            assert all(problem["code"] and problem["hint"] for problem in dataset["problems"]), name
            assert dataset["problems"][0]["code"] not in ("reader_crashed", "ingest_failed"), (name, dataset)
            assert not betrays(answer.content), name
        good = client.post("/v1/datasets", content=spikes_file.read_bytes())
        dataset = client.get(good.json()["links"]["self"], headers={"Prefer": "wait=30"}).json()
        assert dataset["state"] == "ready"
    assert not Path(canary.trap).exists()
