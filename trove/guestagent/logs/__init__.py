"""The logs of an instance on the guest's side: kept within bounds, published, never twice."""
