"""The conductor: receives what agents report."""
