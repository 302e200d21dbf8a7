import json
import pytest
from prunus.studies.crew import Where
from prunus.studies.resolve import resolve
from prunus.studies.runner import prepare, run
from prunus.studies.workers import run_on_workers
from small_study import contents
@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100_000_000})
    yield made
    made.shutdown()
def test_w(tmp_path, cluster):
    s=resolve("hidden-network", {"trials":1,"device":"cpu","model.width":0.2,"train.iterations":40,"train.evaluate_every":20,"densities":[0.5,0.1]}.items())
    p=prepare(s,tmp_path/"w")
    run_on_workers(p,"prunus run",Where(address=cluster.address),quiet=True)
    assert p.missing==[]
    q=prepare(s,tmp_path/"a"); run(q,"x",quiet=True)
    assert contents(tmp_path/"w")==contents(tmp_path/"a")
