"""Against real servers: history in Postgres, checkpoints and scorecards in an S3-compatible store."""

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import dagster as dg
import fsspec
import pytest
import yaml
from upath import UPath

from anony_pipeline import project
from anony_pipeline.config import loading
from anony_pipeline.definitions import defs
from anony_pipeline.defs import checkpoints, retries, sensors
from anony_pipeline.defs.resources import Experiment
from anony_pipeline.errors import CheckpointError, ConfigError
from anony_pipeline.storage import locations

DEPLOY = project.PACKAGE.parent / "deploy"


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def postgres():
    """A Postgres server of the system's package, on a port of its own."""
    if shutil.which("initdb") is None:
        pytest.skip("no Postgres server is installed")
    folder = Path(tempfile.mkdtemp(prefix="anony-postgres-"))
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    if user:
        shutil.chown(folder, user)
    port, data = free_port(), str(folder / "data")

    def run(*command):
        subprocess.run(command, user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    run("initdb", "-D", data, "-U", "dagster", "--auth=trust")
    run("pg_ctl", "-D", data, "-w", "-o", f"-p {port} -k {folder} -h 127.0.0.1", "-l", str(folder / "log"), "start")
    try:
        yield port
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.mark.slow
def test_the_servers_history_is_kept_in_postgres(postgres, house, tmp_path, monkeypatch):
    settings = yaml.safe_load((DEPLOY / "docker/dagster.yaml").read_text())
    settings["storage"]["postgres"]["postgres_db"]["port"] = postgres
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    for name, value in {"HOST": "127.0.0.1", "USER": "dagster", "PASSWORD": "any", "DB": "postgres"}.items():
        monkeypatch.setenv(f"DAGSTER_POSTGRES_{name}", value)

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert "Postgres" in type(instance.event_log_storage).__name__
        house.trained(instance)
        result = house.run("evaluate", instance, tags={"dagster/partition": "FR"})
        assert result.success
    with dg.DagsterInstance.from_config(str(tmp_path)) as again:
        assert again.get_run_by_id(result.run_id).status == dg.DagsterRunStatus.SUCCESS
        assert again.get_materialized_partitions(dg.AssetKey("fid")) == {"FR"}
        assert again.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0


@pytest.fixture
def server():
    """An S3-compatible server of moto; what it holds outlives a stop."""
    from moto.server import ThreadedMotoServer

    found = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def bucket(monkeypatch, server):
    """An empty bucket of the server."""
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "any", "secret": "any", "use_listings_cache": False}
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    name = f"bucket-{uuid.uuid4().hex}"  # moto's buckets outlive its servers
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def memory():
    yield "memory://bucket"
    fsspec.filesystem("memory").rm("/", recursive=True)


@pytest.fixture
def store(request):
    return request.getfixturevalue(request.param)


STORES = pytest.mark.parametrize("store", ["memory", pytest.param("bucket", marks=pytest.mark.slow)], indirect=True)


def remote(house, store):
    """The experiment with its outputs in the store, and a checkpoint that was copied there."""
    values = yaml.safe_load(house.file.read_text())
    values["paths"]["outputs"] = f"{store}/outputs"
    house.file.write_text(yaml.safe_dump(values))
    house.config = loading.load([house.file])
    local = house.checkpoint(3)
    there = UPath(f"{store}/outputs/checkpoints/step_000003")
    for file in local.iterdir():
        (there / file.name).write_bytes(file.read_bytes())
    return there


@STORES
def test_a_checkpoint_in_a_store_is_found_and_fetched_once(house, instance, store):
    there = remote(house, store)
    context = dg.build_sensor_context(instance=instance, resources={"experiment": Experiment(layers=[str(house.file)])})
    result = sensors.new_checkpoints(context)
    assert result.run_requests[0].run_key.startswith("step_000003:")
    here = checkpoints.fetched(there, house.config)
    assert (here / "detector.safetensors").read_text() == "weights"
    written = (here / "manifest.json").stat().st_mtime_ns
    assert checkpoints.fetched(there, house.config) == here
    assert (here / "manifest.json").stat().st_mtime_ns == written


@STORES
def test_a_checkpoint_that_was_damaged_on_its_way_is_not_used(house, store):
    there = remote(house, store)
    (there / "detector.safetensors").write_bytes(b"wEights")
    with pytest.raises(CheckpointError, match="another sha256"):
        checkpoints.fetched(there, house.config)
    assert not list(Path(house.config.paths.cache).rglob("manifest.json"))


@pytest.mark.slow
@pytest.mark.parametrize("store", ["memory", "bucket"], indirect=True)
def test_a_checkpoint_in_a_store_is_judged_and_its_scorecard_lies_beside_it(house, instance, store):
    there = remote(house, store)
    tags = {checkpoints.VERSION_TAG: checkpoints.version(there)}
    entry = {"checkpoint": dg.MetadataValue.path(str(there))}
    instance.report_runless_asset_event(dg.AssetMaterialization(checkpoints.JOINT, metadata=entry, tags=tags))
    checkpoints.register(instance, there.name)
    assert house.run("evaluate", instance).success
    assert checkpoints.scorecard_of(house.config, there).exists()
    assert (locations.location(house.config.paths.outputs) / "report" / "index.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("store", ["bucket"], indirect=True)
def test_a_store_that_goes_down_in_the_middle_of_a_run_is_waited_for(house, instance, store, server, monkeypatch):
    from anony_pipeline.evaluation import scorecard

    there = remote(house, store)
    tags = {checkpoints.VERSION_TAG: checkpoints.version(there)}
    entry = {"checkpoint": dg.MetadataValue.path(str(there))}
    instance.report_runless_asset_event(dg.AssetMaterialization(checkpoints.JOINT, metadata=entry, tags=tags))
    checkpoints.register(instance, there.name)
    monkeypatch.setattr(retries, "WAIT_SECONDS", 0)
    tries = []

    def evaluate(*arguments):
        # Down after the checkpoint was fetched, so that the scorecard can't be written; back before the second try.
        tries.append(1)
        if len(tries) == 1:
            server.stop()
        try:
            return house.evaluate(*arguments)
        finally:
            if len(tries) == 1:
                server.start()

    monkeypatch.setattr(scorecard, "evaluate", evaluate)
    result = house.run("evaluate", instance)
    assert result.success
    assert len(tries) == 2
    assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 1
    assert checkpoints.scorecard_of(house.config, there).exists()


def test_training_into_a_store_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"on this machine alone(.|\n)*paths.outputs(.|\n)*s3://bucket/outputs"):
        locations.local_folder("s3://bucket/outputs", "paths.outputs")


class TestFiles:
    """What is deployed is consistent; no container engine or cluster is here to run it."""

    def test_compose_names_only_what_is_there(self):
        compose = yaml.safe_load((DEPLOY / "docker/compose.yaml").read_text())
        services = compose["services"]
        for name, service in services.items():
            assert set(service.get("depends_on", ())) <= set(services), name
            for volume in service.get("volumes", ()):
                assert volume.split(":")[0] in compose["volumes"]
        given = services["code"]["environment"]
        postgres = yaml.safe_load((DEPLOY / "docker/dagster.yaml").read_text())["storage"]["postgres"]["postgres_db"]
        assert {entry["env"] for entry in postgres.values() if isinstance(entry, dict)} <= set(given)
        (code,) = yaml.safe_load((DEPLOY / "docker/workspace.yaml").read_text())["load_from"]
        assert code["grpc_server"]["host"] in services

    def test_the_image_is_built_of_files_that_are_there_and_runs_as_nobody(self):
        lines = (DEPLOY / "docker/Dockerfile").read_text().splitlines()
        copied = [part for line in lines if line.startswith("COPY") for part in line.split()[1:-1]]
        assert copied
        assert all((project.PACKAGE.parent / part).exists() for part in copied)
        assert "USER anony" in lines

    def test_nothing_is_sent_anywhere(self):
        for file in ("docker/dagster.yaml", "kubernetes/values.yaml"):
            assert yaml.safe_load((DEPLOY / file).read_text())["telemetry"]["enabled"] is False

    def test_only_runs_whose_process_died_start_again(self):
        for file in (DEPLOY / "docker/dagster.yaml", project.PACKAGE.parent / "dagster.yaml"):
            retries = yaml.safe_load(file.read_text())["run_retries"]
            assert (retries["enabled"], retries["retry_on_asset_or_op_failure"]) == (True, False)

    def test_a_run_on_kubernetes_asks_for_a_gpu_and_has_time_to_save(self):
        values = yaml.safe_load((DEPLOY / "kubernetes/values.yaml").read_text())
        run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
        assert run["containerConfig"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        launcher = defs.resources["launcher"]
        assert run["podSpecConfig"]["terminationGracePeriodSeconds"] > launcher.grace_seconds
