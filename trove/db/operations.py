"""Persisted operations: how they are made, claimed, stepped, woken and ended.

The invariants, each a conditional UPDATE and never a check followed by a write:

* At most one active operation holds a ``lock_key``; an ended one holds none.
* Only the claim whose token stands in ``owner`` may save a step, and only from the step it
  expects; a claim is taken when there is no owner or the owner's lease has run out.
* An event for a resource increments ``signals``; a wait is stored only if ``signals`` is what it
  was when the step began, so no event is lost between a look and a wait.
"""
