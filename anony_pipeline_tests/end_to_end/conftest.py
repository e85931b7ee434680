import subprocess

import pytest

from anony_pipeline_tests.end_to_end import smoke


@pytest.fixture(scope="session")
def smoke_data(tmp_path_factory):
    """A folder in which the smoke experiment ran from raw data to scorecard: copied, never changed."""
    home = smoke.make_home(tmp_path_factory.mktemp("smoke"))
    done = subprocess.run(
        smoke.job(home, "planb", smoke.run_config(home)),
        cwd=home,
        env=smoke.environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return home
