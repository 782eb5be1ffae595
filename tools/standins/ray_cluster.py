"""A Ray cluster of two nodes on this machine, with a CPU each, for as long as standard input is open.

    PYTHON-WITH-RAY tools/standins/ray_cluster.py

prints the head's address. At the line "lose" the second node is gone without a goodbye.
"""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
# A node is missed after seconds instead of a quarter of a minute.
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}

cluster = Cluster(initialize_head=True, head_node_args={**NODE, "_system_config": SOON})
second = cluster.add_node(**NODE)
sys.stdout.write(f"{cluster.address}\n")
sys.stdout.flush()
for line in sys.stdin:
    assert line == "lose\n"
    cluster.remove_node(second, allow_graceful=False)
    sys.stdout.write("lost\n")
    sys.stdout.flush()
cluster.shutdown()
