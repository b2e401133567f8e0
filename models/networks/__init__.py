"""Our own networks: one architecture per file, and the table that names them."""

from models.networks.table import NETWORKS, find

__all__ = ["NETWORKS", "find"]
