"""Plan, approve, apply: the one way of every flow that removes or moves bytes.

A plan is made under the sweep's lock and shown. A dry run ends there. A plan past the safety caps lets go of the lock,
suspends the run and asks in the UI; when somebody has answered, the run starts again from the top, plans again, and
asks again if the plan has grown past what was agreed to, or, for an erasure, is about other jobs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Generic, Literal, TypeVar
from uuid import UUID

from prefect import get_run_logger, suspend_flow_run
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.input import RunInput
from prefect.states import Cancelled, Completed
from pydantic import Field

from blocks.catalog import CatalogDatabase, approvals, due
from blocks.catalog.restored import read_freeze
from blocks.catalog.sweeps import sweep_lock
from blocks.errors import LeftOutError, RefusedError, StorageError, SweepBusyError
from blocks.policies import SafetyPolicy
from blocks.units import format_bytes
from flows.common.batches import progress_of
from flows.common.events import APPROVAL, tell
from flows.common.opening import escaped, markdown_rows, outlast_first_heartbeat, run_label, show_table
from tasks.plans import Approval, Item, Outcome, Plan, Report, over_caps
from tasks.stores import OpenLocation, require_epoch
from tasks.sweeping import Sweep

F = TypeVar("F")

SHOWN = 500
"""Rows in an artifact; the sums are of all."""
LONGEST_SCOPE = 1000


class ApprovalForm(RunInput):
    """What the UI asks: whether to go on, and how much may be removed or moved at most."""

    decision: Literal["deny", "approve"] = Field(default="deny", description="Whether the run may go on.")
    approved_objects: int = Field(default=0, ge=0, description="Objects it may remove or move at most.")
    approved_bytes: int = Field(default=0, ge=0, description="Bytes it may remove or move at most.")


@dataclass(frozen=True)
class Work(Generic[F]):
    """What one flow does: `plan` finds and decides, `apply` does it. `facts` go from one to the other.

    `prepare` finishes what earlier runs left, once the lock is held; a dry run leaves that out.
    """

    operation: str
    catalog: CatalogDatabase
    locations: tuple[OpenLocation, ...]
    caps: SafetyPolicy
    plan: Callable[[Sweep], tuple[Plan, F]]
    apply: Callable[[Sweep, F, Plan], Report]
    prepare: Callable[[Sweep], object] = lambda sweep: None
    scope: str = ""
    locked: bool = True
    always_ask: bool = False
    lead: str = ""
    while_frozen: bool = False
    """Whether it may run while a restored catalog waits for its confirmation: it removes and moves nothing then."""
    left_out: Mapping[str, StorageError] = field(default_factory=dict)
    """Stores that could not be opened, by name, as `Sweep.left_out`."""


def run_planned(work: Work[F], *, dry_run: bool) -> State[Report]:
    """Go the way from plan to report; returns the run's final state."""
    granted = _answer(work)
    if isinstance(granted, State):
        return granted
    if not dry_run and (frozen := _frozen(work)):
        return frozen
    try:
        with _held(work, patient=granted is not None or is_scheduled()) as sweep:
            if not dry_run:
                # The lock may have been waited for while a restore held it.
                if frozen := _frozen(work):
                    return frozen
                for location in work.locations:
                    require_epoch(work.catalog, location)
                work.prepare(sweep)
            planned, facts = work.plan(sweep)
            plan = _with_left_out(planned, sweep.left_out)
            show_plan(plan, dry_run=dry_run)
            if dry_run:
                return Completed(name="DryRun", message=f"dry run, nothing is changed: {plan.summary()}", data=None)
            _overtake_older(work)
            reasons = _reasons_to_ask(work, plan, granted)
            if not reasons:
                return _finish(plan, _apply(work, sweep, facts, plan), sweep.left_out)
    except SweepBusyError as error:
        if granted is not None or is_scheduled():
            raise
        return Completed(name="Skipped", message=str(error), data=None)
    _ask(work, plan, reasons)
    raise AssertionError("a run that asks ends there")


def _frozen(work: Work[F]) -> State[Report] | None:
    if work.while_frozen or (frozen := work.catalog.transaction(read_freeze)) is None:
        return None
    return Completed(name="Skipped", message=str(frozen.refusal()), data=None)


def show_plan(plan: Plan, *, dry_run: bool) -> None:
    """The plan as a table: sums by rule first, then its items, then what is left alone."""
    rows = [
        {"rule": one.rule, "what": "all", "subject": f"{one.items} items", "because": "", "customer": "",
         "objects": one.objects, "size": format_bytes(one.size_bytes)}
        for one in plan.by_rule()
    ]  # fmt: skip
    for items, left in ((plan.items, False), (plan.skipped, True)):
        rows += [
            {"rule": item.rule, "what": "left alone" if left else item.action, "subject": item.subject,
             "because": item.because, "customer": item.customer, "objects": item.objects,
             "size": format_bytes(item.size_bytes)}
            for item in items[:SHOWN]
        ]  # fmt: skip
    kind = "Dry run: this would be done. " if dry_run else "This is about to be done. "
    show_table(f"{plan.operation}-plan", rows, (kind if plan.items else "") + plan.summary())
    get_run_logger().info("plan: %s", plan.summary())


def show_report(report: Report) -> None:
    """What became of the plan: sums by rule, then everything that did not go well, then the rest."""
    rows = [
        {"rule": one.rule, "result": "all", "subject": f"{one.items} done", "error": "", "objects": one.objects,
         "size": format_bytes(one.size_bytes)}
        for one in report.by_rule()
    ]  # fmt: skip

    def worst_first(outcome: Outcome) -> int:
        return ("failed", "skipped", "done").index(outcome.result)

    rows += [
        {"rule": one.item.rule, "result": one.result, "subject": one.item.subject, "error": one.error,
         "objects": one.objects, "size": format_bytes(one.size_bytes)}
        for one in sorted(report.outcomes, key=worst_first)[:SHOWN]
    ]  # fmt: skip
    show_table(report.operation, rows, report.summary())


def _with_left_out(plan: Plan, left_out: Mapping[str, StorageError]) -> Plan:
    items = [Item("look through", "left out", name, str(error), place=name) for name, error in left_out.items()]
    return replace(plan, skipped=(*items, *plan.skipped))


def _finish(plan: Plan, report: Report, left_out: Mapping[str, StorageError]) -> State[Report]:
    left = f"; {len(plan.skipped)} left alone, see the plan" if plan.skipped else ""
    message = report.summary() + left
    if report.outcomes:
        show_report(report)
    if left_out:
        raise LeftOutError("; ".join([message, *(f"{name} was left out: {error}" for name, error in left_out.items())]))
    get_run_logger().info(message)
    return Completed(name="Partial" if report.failed else "Completed", message=message, data=report)


@contextmanager
def _held(work: Work[F], *, patient: bool) -> Iterator[Sweep]:
    run = run_label()
    if not work.locked:
        yield Sweep(work.catalog, work.locations, run, left_out=dict(work.left_out))
        return
    # Somebody who approved a plan is not there any more to start it again.
    wait = timedelta(minutes=work.caps.lock_wait_minutes) if patient else timedelta(0)
    with sweep_lock(
        work.catalog,
        [place for location in work.locations for place in location.place.shelf],
        holder=f"{work.operation} {run}",
        wait=wait,
        waiting=lambda by: get_run_logger().info("waiting for %s", by),
    ) as lock:
        yield Sweep(work.catalog, work.locations, run, before_batch=lock.require, left_out=dict(work.left_out))


def _apply(work: Work[F], sweep: Sweep, facts: F, plan: Plan) -> Report:
    if not plan.items:
        return work.apply(sweep, facts, plan)
    with progress_of(work.operation, plan.summary(), len(plan.items)) as progress:
        return work.apply(replace(sweep, progress=progress), facts, plan)


def _reasons_to_ask(work: Work[F], plan: Plan, granted: Approval | None) -> tuple[str, ...]:
    if not plan.items or (granted is not None and granted.covers(plan)):
        return ()
    # Counted no further than where the share is surely small: the question costs what the plan does.
    enough = plan.objects * 100 // max(1, work.caps.most_percent) + 1
    total = work.catalog.transaction(lambda connection: due.count_up_to(connection, enough))
    reasons = over_caps(plan, work.caps, total)
    if work.always_ask:
        reasons = ("this cannot be undone", *reasons)
    if granted is not None and granted.is_less_than(plan):
        more = (
            f"it is more than the {granted.objects} objects and {format_bytes(granted.size_bytes)} that were approved"
        )
        reasons = (more, *reasons)
    elif granted is not None and plan.exact:
        reasons = ("it is not about the very same as what was approved", *reasons)
    return reasons


def _ask(work: Work[F], plan: Plan, reasons: tuple[str, ...]) -> None:
    """Suspend the run until somebody answers; the process ends here."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        raise RefusedError(
            f"{'; '.join(reasons)}: this has to be approved, and only a deployed run can ask. Start it with `prefect "
            f"deployment run {work.operation}/{work.operation}`, or raise the Safety Policy's caps. {plan.summary()}"
        )
    lasts = timedelta(hours=work.caps.approval_hours)
    outlast_first_heartbeat()
    run = context.flow_run.id
    work.catalog.transaction(
        lambda connection: approvals.ask(
            connection, run=run, operation=work.operation, scope=scope_of(work), objects=plan.objects,
            size_bytes=plan.size_bytes, lasts=lasts,
        )
    )  # fmt: skip
    tell(APPROVAL, work.operation, of="flow", because="; ".join(reasons), plan=plan.summary(), run=run)
    get_run_logger().warning("asking for approval: %s; press Resume on this page to answer", "; ".join(reasons))
    suspend_flow_run(
        wait_for_input=ApprovalForm.with_initial_data(
            description=_question(work, plan, reasons, lasts),
            decision="deny",
            approved_objects=plan.objects,
            approved_bytes=plan.size_bytes,
        ),
        # The time, since a run that is retried forgets what it asked, and a key is good for one question. And what was
        # told as strange: nothing else is approved.
        key=f"approval-{int(time.time())}-{plan.strangeness}",
        timeout=int(lasts.total_seconds()),
    )


def _answer(work: Work[F]) -> Approval | State[Report] | None:
    """What was answered the last time this run asked; a state where that ends it, None where it never asked."""
    asked = _asked_before()
    if not asked:
        return None
    # A key that was used before does not suspend again: it gives its answer back.
    form = suspend_flow_run(wait_for_input=ApprovalForm, key=asked[-1])
    approved = form.decision == "approve"
    run = UUID(run_label())
    if not work.catalog.transaction(lambda connection: approvals.answer(connection, run, approved=approved)):
        message = "a newer plan for the same place took over while this one waited; nothing was changed"
        return Completed(name="Overtaken", message=message, data=None)
    if not approved:
        return Completed(name="Denied", message="denied in the UI; nothing was changed", data=None)
    _, _, told = asked[-1].removeprefix("approval-").partition("-")
    return Approval(form.approved_objects, form.approved_bytes, told)


def was_asked() -> bool:
    """Whether this run has asked somebody before, and goes on now."""
    return bool(_asked_before())


def _asked_before() -> list[str]:
    context = FlowRunContext.get()
    keys = (context.flow_run.empirical_policy.pause_keys or ()) if context and context.flow_run else ()
    return sorted((key for key in keys if key.startswith("approval-")), key=lambda key: int(key.split("-")[1]))


def _overtake_older(work: Work[F]) -> None:
    """A newer plan of this kind for the same place: whoever asked before has nothing to wait for any more."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run = context.flow_run.id
    older = work.catalog.transaction(
        lambda connection: approvals.overtake(connection, operation=work.operation, scope=scope_of(work), run=run)
    )
    with get_client(sync_client=True) as client:
        for one in older:
            with suppress(ObjectNotFound):  # somebody deleted the run in the UI
                state = client.read_flow_run(one).state
                if state is not None and state.is_paused():
                    because = f"overtaken by a newer plan of run {run}; nothing was changed"
                    overtaken: State[None] = Cancelled(message=because)
                    client.set_flow_run_state(one, overtaken, force=True)


def scope_of(work: Work[F]) -> str:
    """What a plan is for: the same text for the same wish, however long."""
    scope = " ".join([*sorted(location.place.name for location in work.locations), work.scope]).strip()
    # It is looked for by an index, whose entries end at 2,704 bytes: a list of jobs is longer.
    return scope if len(scope) <= LONGEST_SCOPE else hashlib.sha256(scope.encode()).hexdigest()


def is_scheduled() -> bool:
    """Whether a schedule started this run, and not a person."""
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.auto_scheduled)


def _question(work: Work[F], plan: Plan, reasons: tuple[str, ...], lasts: timedelta) -> str:
    lead = f"**{work.operation}** wants to go past what is allowed without asking:"
    if work.lead:
        lead = work.lead
    elif work.always_ask:
        lead = f"**{work.operation} erases for good**, and no undelete-jobs brings anything back:"
    labels = sorted({item.customer for item in plan.items if item.customer})
    customers = (escaped(", ".join(labels[:10])) or "none") + (" and others" if len(labels) > 10 else "")
    rules = markdown_rows(
        (
            (one.rule, f"{one.items} items, {one.objects} objects, {format_bytes(one.size_bytes)}")
            for one in plan.by_rule()
        ),
        head=("rule", "plan"),
    )
    return (
        f"{lead} {'; '.join(reasons)}.\n\n{rules}\n\nCustomers: {customers}.\n\n"
        f"The plan is the artifact `{work.operation}-plan` of this run. To go on, choose approve, with how many "
        f"objects and bytes it may reach ({plan.objects}, {format_bytes(plan.size_bytes)}): it plans again before it "
        f"acts, and a plan {'about anything else' if plan.exact else 'larger than that'} is not carried out in part, "
        "it asks again. "
        f"Without an answer within {lasts.total_seconds() / 3600:.0f} hours nothing happens."
    )
