"""What a person does in the browser: look, materialize, backfill, terminate, resume, switch the sensor on.

Needs a Chromium (`apt-get install chromium`); Playwright drives it. Set ANONY_SCREENSHOTS to a folder to keep pictures.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import dagster as dg
import pytest
import yaml

from anony_pipeline.defs.partitions import STYLE_KEYS
from anony_pipeline.storage import manifests
from anony_pipeline_tests.end_to_end import smoke

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: nobody looked at the pages"),
]

SECONDS = 600


class Ui:
    """`dagster dev` on the smoke experiment, and a page that looks at it."""

    def __init__(self, home, page, port):
        self.home, self.page, self.url = home, page, f"http://127.0.0.1:{port}"

    def go(self, path):
        # The page polls for ever, so it never comes to rest: wait for what is looked for instead.
        self.page.goto(self.url + path, wait_until="domcontentloaded")

    def keep(self, name):
        if folder := os.environ.get("ANONY_SCREENSHOTS"):
            self.page.wait_for_timeout(3000)
            self.page.screenshot(path=f"{folder}/{name}.png")

    def instance(self):
        return dg.DagsterInstance.from_config(str(self.home / "dagster_home"))

    def runs(self, job=None):
        """The newest first."""
        with self.instance() as instance:
            return list(instance.get_runs(dg.RunsFilter(job_name=job)))

    def finished(self, job=None, than=0):
        """The newest run, once there are more than so many and it is finished."""

        def newest():
            runs = self.runs(job)
            return runs[0] if len(runs) > than and runs[0].is_finished else None

        return smoke.until(newest, SECONDS, f"no finished run of {job or 'any job'}")

    def steps(self, count):
        """How long the next training lasts: read by each run anew."""
        training = {"max_steps": count, "validate_every_steps": 100000}
        settings = {"training": training, "checkpoint": {"save_every_steps": 2}}
        (self.home / "configs/steps.yaml").write_text(yaml.safe_dump(settings))

    def checkpoints(self):
        """The steps of the whole checkpoints, whose sums are compared."""
        found = (self.home / "outputs/smoke/checkpoints").glob("step_*/manifest.json")
        return sorted(manifests.read(file.parent)["step"] for file in found)

    def launch(self, job):
        self.go(f"/locations/anony_pipeline/jobs/{job}/playground")
        self.page.get_by_role("button", name="Launch Run").click(timeout=60_000)


@pytest.fixture
def ui(smoke_data, tmp_path):
    from playwright.sync_api import sync_playwright

    home = smoke.copy_home(smoke_data, tmp_path / "home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "configs/steps.yaml").write_text("{}")
    environment = smoke.environment(home) | {"ANONY_CONFIG": "configs/smoke.yaml:configs/steps.yaml"}
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "dev.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=home, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        smoke.until(lambda: answers(port), 180, "dagster dev does not answer")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(60_000)
            yield Ui(home, page, port)
            browser.close()
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def test_a_day_in_the_browser(ui):
    page = ui.page

    ui.go("/asset-groups")
    page.get_by_text("evaluation", exact=True).first.wait_for()
    page.mouse.click(900, 750)
    page.keyboard.press("Alt+KeyE")
    page.get_by_text("joint_checkpoint").first.wait_for()
    ui.keep("dagster_lineage")

    ui.go("/assets/unified_coco")
    page.get_by_role("button", name="Materialize").first.click()
    # The data sets lie there, but Dagster never saw them.
    page.get_by_role("button", name="Confirm").click()
    assert ui.finished().status == dg.DagsterRunStatus.SUCCESS

    ui.go("/assets/plate_samples?view=partitions")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("dialog").get_by_text("All", exact=True).click()
    ui.keep("dagster_backfill")
    page.get_by_role("button", name="Launch backfill").click()
    assert ui.finished(than=1).status == dg.DagsterRunStatus.SUCCESS
    assert len(ui.runs()) == 2, "all styles are one run"
    with ui.instance() as instance:
        assert instance.get_materialized_partitions(dg.AssetKey("plate_samples")) == set(STYLE_KEYS)

    terminate_and_resume(ui)

    ui.go("/locations/anony_pipeline/sensors/new_checkpoints")
    page.locator("input[type=checkbox]").first.locator("xpath=..").click()
    # Every checkpoint that was never judged has its turn, the oldest first.
    assert ui.finished("evaluate").status == dg.DagsterRunStatus.SUCCESS
    ui.keep("dagster_sensor")
    page.locator("input[type=checkbox]").first.locator("xpath=..").click()

    ui.go("/assets/scorecard")
    page.get_by_text("Latest check results").wait_for()
    page.get_by_text("coverage", exact=True).first.wait_for()
    ui.keep("dagster_scorecard")


def terminate_and_resume(ui):
    page, before = ui.page, ui.checkpoints()
    ui.steps(100_000)
    ui.launch("joint_training")
    smoke.until(lambda: ui.checkpoints() > before, SECONDS, "no checkpoint")
    (run,) = ui.runs("joint_training")
    ui.go(f"/runs/{run.run_id}")
    page.get_by_role("button", name="Terminate").first.click()
    ui.keep("dagster_terminate")
    page.get_by_role("dialog").get_by_role("button", name="Terminate").last.click()
    assert ui.finished("joint_training").status == dg.DagsterRunStatus.CANCELED
    step = ui.checkpoints()[-1]
    with ui.instance() as instance:
        assert instance.event_log_storage.get_concurrency_info("gpu").active_slot_count == 0

    ui.steps(step + 2)
    ui.launch("joint_training")
    assert ui.finished("joint_training", than=1).status == dg.DagsterRunStatus.SUCCESS
    assert ui.checkpoints()[-1] == step + 2
