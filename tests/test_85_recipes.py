"""The recipes of docs/cluster.md, as far as one machine can follow them: what they make is what their clusters take."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
DOCKER = (ROOT / "Dockerfile").read_text()


def recipe(word: str, until: str) -> dict:
    """What the block of the page that holds a word defines, up to a line."""
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if word in block]
    names: dict = {}
    exec(block[: block.index(until)], names)
    return names


def test_the_job_of_slurm(monkeypatch, tmp_path):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.chdir(tmp_path)
    cluster = recipe("SLURMCluster", "print(")["cluster"]
    try:
        script = cluster.job_script().splitlines()
    finally:
        cluster.close()
    assert script[0] == "#!/usr/bin/env bash"
    for line in ("-p short", "--cpus-per-task=4", "--mem=8G", "-t 02:00:00"):
        assert f"#SBATCH {line}" in script
    work = [line for line in script if line and not line.startswith("#")]
    assert work[:2] == ["source /shared/geouq/.venv/bin/activate", "export OMP_WAIT_POLICY=passive"]
    assert "dask_worker tcp://" in work[-1] and "--nthreads 4" in work[-1]
    if shutil.which("bash"):
        assert subprocess.run(["bash", "-n"], input="\n".join(script), text=True).returncode == 0


def test_the_manifest_for_kubernetes():
    operator = pytest.importorskip("dask_kubernetes.operator")
    jsonschema, yaml = pytest.importorskip("jsonschema"), pytest.importorskip("yaml")
    spec = recipe("make_cluster_spec", "cluster = ")["spec"]
    (file,) = Path(operator.__file__).parent.glob("deployment/helm/*/crds/daskcluster.yaml")
    schema = yaml.safe_load(file.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.validate(spec, schema)
    worker = spec["spec"]["worker"]
    (container,) = worker["spec"]["containers"]
    assert worker["replicas"] == 8 and container["args"][:4] == ["dask", "worker", "--nthreads", "4"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "8Gi"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spec | {"spec": spec["spec"] | {"worker": {"replicas": "many"}}}, schema)


def test_the_image_has_what_workers_need():
    """Kubernetes gives arguments to the image's entry point: it must have none, for they begin with a program."""
    assert "ENTRYPOINT" not in DOCKER and re.search(r'^CMD \["geouq"', DOCKER, re.MULTILINE)
    (extras,) = re.findall(r"/geouq\[([\w,]+)\]", DOCKER)
    known = re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text().partition("[options.extras_require]")[2], re.M)
    assert {"distributed", "remote"} <= set(extras.split(",")) <= set(known)


@pytest.mark.parametrize("number", range(PAGE.count("```python")))
def test_every_recipe_is_python(number):
    ast.parse(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number])
