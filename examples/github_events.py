"""What a team does with the webhooks of its GitHub repositories: one function for each thing to be done.

    missive routes examples/github_events.py:proc
    missive run examples/github_events.py:proc --from file:examples/github-webhooks.jsonl
    missive dlq groups

Each line of that file is {"event": …, "payload": …}. Two things are wrong in here on purpose, so that the dead
letters show them: `pushed` has a bug, and two handlers claim the same jobs (`job_unfinished`, `runners_wanted`).
"""

import asyncio
from collections import deque
from typing import Any

import missive
from missive import HandlingContext, JSONMessage
from missive.matchers import Field, OneOf, Present, Range, Some, Suffix

# Only these two values may be shown, in lists of dead letters and in explanations. All else stays masked.
proc = missive.Processor(JSONMessage, name="github-events", public=["event", ("payload", "action")])

# The latest lines of the team's feed. Appending to a deque is safe from any thread.
feed: deque[str] = deque(maxlen=100)


def payload_of(message: JSONMessage) -> dict[str, Any]:
    """Return what GitHub sent."""
    payload: dict[str, Any] = message.get_json()["payload"]
    return payload


# Matchers are values: give one a name and use it again.
ACTION = ("payload", "action")
OPENED = Field(ACTION, "opened")
COMPLETED = Field(ACTION, "completed")
CHANGED = Field(("payload", "changes"), Present())
DISCUSSED = Field("event", OneOf("discussion", "issues", "pull_request"))
JOB = Field("event", OneOf("check_run", "check_suite", "workflow_job", "workflow_run"))
FAILED = Field(("payload", "check_run", "conclusion"), "failure") | Field(
    ("payload", "workflow_job", "conclusion"), "failure"
)
ALERT = Field("event", Suffix("_alert"))
ALERT_RAISED = Field(ACTION, OneOf("created", "create", "reopened"))


# On one field


@proc.handle_for(Field("event", "push"))
def pushed(message: JSONMessage, context: HandlingContext) -> None:
    """Tell the feed who pushed where."""
    push = payload_of(message)
    # The bug, on purpose: there is no head_commit (it is null) when the push deletes a branch or a tag.
    who = push["head_commit"]["author"]["name"]
    feed.append(f"{who} pushed to {push['ref']}")


@proc.handle_for(Field("event", "ping"))
def hook_installed(message: JSONMessage, context: HandlingContext) -> None:
    """Greet a new webhook."""
    feed.append(f"webhook {payload_of(message)['hook_id']} is connected")


@proc.handle_for(Field("event", OneOf("project", "project_card", "project_column", "projects_v2_item")))
def boards(message: JSONMessage, context: HandlingContext) -> None:
    """Note that a board, a column or a card changed."""
    feed.append("a project board changed")


# On several fields


@proc.handle_for(Field("event", "release") & Field(ACTION, "published"))
def release_notes(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a release."""
    release = payload_of(message)["release"]
    feed.append(f"released {release['name'] or release['tag_name']}")


@proc.handle_for(OPENED & Field("event", OneOf("issues", "pull_request")))
def triage(message: JSONMessage, context: HandlingContext) -> None:
    """Find out how urgent a new issue or pull request is."""
    payload = payload_of(message)
    item = payload.get("issue") or payload["pull_request"]
    text = f"{item['title']} {item['body'] or ''}".casefold()
    feed.append(f"new: #{item['number']}" + (" (urgent)" if "crash" in text else ""))


@proc.handle_for(DISCUSSED & Field(ACTION, "labeled") & Field(("payload", "label", "name"), "bug"))
def bug_confirmed(message: JSONMessage, context: HandlingContext) -> None:
    """Note that somebody labelled an issue, a pull request or a discussion as a bug."""
    feed.append("one more confirmed bug")


@proc.handle_for(Field("event", Suffix("_comment")) & Field(ACTION, "created"))
def commented(message: JSONMessage, context: HandlingContext) -> None:
    """Tell the feed about a comment, on whatever it is."""
    feed.append(f"{payload_of(message)['comment']['user']['login']} commented")


@proc.handle_for(
    Field("event", "pull_request")
    & Field(ACTION, OneOf("ready_for_review", "review_requested"))
    & ~Field(("payload", "sender", "type"), "Bot")
)
def review_wanted(message: JSONMessage, context: HandlingContext) -> None:
    """Put a pull request into the queue for review, when it is a person who asks."""
    feed.append(f"please review #{payload_of(message)['number']}")


@proc.handle_for(DISCUSSED & Field(ACTION, OneOf("assigned", "unassigned", "milestoned", "demilestoned")))
def replanned(message: JSONMessage, context: HandlingContext) -> None:
    """Note that somebody else or another date is in charge of an issue or a pull request."""
    feed.append(f"{payload_of(message)['action']} by {payload_of(message)['sender']['login']}")


@proc.handle_for(Field("event", "deployment_status") & Field(("payload", "deployment_status", "state"), "success"))
def deployed(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a deployment that succeeded."""
    feed.append(f"deployed to {payload_of(message)['deployment']['environment']}")


@proc.handle_for(CHANGED & Field("event", OneOf("member", "organization", "repository", "team")))
def audit(message: JSONMessage, context: HandlingContext) -> None:
    """Keep who changed a name, a right or a setting."""
    payload = payload_of(message)
    feed.append(f"{payload['sender']['login']} changed {', '.join(payload['changes'])}")


@proc.handle_for(
    Field("event", OneOf("member", "membership", "org_block", "organization", "team", "team_add")) & ~CHANGED
)
def people(message: JSONMessage, context: HandlingContext) -> None:
    """Keep who came, who went, and who was blocked."""
    feed.append(f"{message.get_json()['event']}: {payload_of(message).get('action', 'added')}")


# An async handler: it runs on an event loop, beside the others


@proc.handle_for(Field("event", OneOf("fork", "watch")) | (Field("event", "star") & Field(ACTION, "created")))
async def more_popular(message: JSONMessage, context: HandlingContext) -> None:
    """Tell the chat about a star, a watcher or a fork."""
    stars = payload_of(message)["repository"]["stargazers_count"]
    await asyncio.sleep(0)  # here would be the call of the chat's API
    feed.append(f"{stars} stars")


# Security


@proc.handle_for(ALERT & ALERT_RAISED)
def security_alert(message: JSONMessage, context: HandlingContext) -> None:
    """Call whoever is on duty."""
    feed.append(f"security: {message.get_json()['event']}")


@proc.handle_for(ALERT & ~ALERT_RAISED)
def security_alert_closed(message: JSONMessage, context: HandlingContext) -> None:
    """Do nothing about an alert that is fixed or dismissed: declared, and counted as discarded."""
    context.discard("alert closed")


@proc.handle_for(
    Field("event", "security_advisory")
    & Field(("payload", "security_advisory", "cvss", "score"), Range(ge=7))
    & Field(("payload", "security_advisory", "withdrawn_at"), None)
)
def severe_advisory(message: JSONMessage, context: HandlingContext) -> None:
    """Look for the affected packages, when an advisory is severe and still stands (null: not withdrawn)."""
    feed.append(f"severe: {payload_of(message)['security_advisory']['ghsa_id']}")


@proc.handle_for(Field("event", "meta") | (Field("event", "installation") & Field(ACTION, OneOf("deleted", "suspend"))))
def access_lost(message: JSONMessage, context: HandlingContext) -> None:
    """File a dead letter: GitHub will send no more events, and only a person can put that right."""
    context.dead_letter("access lost", detail=f"by {payload_of(message)['sender']['login']}")


# Continuous integration


@proc.handle_for(JOB & COMPLETED & FAILED)
def job_failed(message: JSONMessage, context: HandlingContext) -> None:
    """Tell the feed that the build is broken."""
    feed.append(f"broken: {message.get_json()['event']}")


@proc.handle_for(JOB & COMPLETED & ~FAILED)
def job_passed(message: JSONMessage, context: HandlingContext) -> None:
    """Note that a job is done."""
    feed.append("a job is done")


@proc.handle_for(JOB & ~COMPLETED)
def job_unfinished(message: JSONMessage, context: HandlingContext) -> None:
    """Do nothing about a job that only waits or runs."""
    context.discard("job not finished")


# Ambiguous, on purpose: job_unfinished matches these jobs as well, and Missive warns of it at start. A message goes
# to one handler or to none, never to whichever was written first.
@proc.handle_for(
    Field("event", OneOf("workflow_dispatch", "workflow_job"))
    & Field(("payload", "workflow_job", "labels"), Some("self-hosted"))
    & ~COMPLETED
)
def runners_wanted(message: JSONMessage, context: HandlingContext) -> None:
    """Start a machine for a job that waits for one of our own runners."""
    feed.append("one more runner, please")


# Housekeeping


@proc.handle_for(DISCUSSED & Field(ACTION, OneOf("locked", "unlocked", "pinned", "unpinned")))
def moderated(message: JSONMessage, context: HandlingContext) -> None:
    """Do nothing about what moderators lock and pin."""
    context.discard("housekeeping")
