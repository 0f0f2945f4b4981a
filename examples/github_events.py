"""Handle the webhooks of a team's GitHub repositories: one function for each task.

    missive routes examples/github_events.py:proc
    missive run examples/github_events.py:proc --from file:examples/github-webhooks.jsonl
    missive dlq groups

Each line of the file is {"event": …, "payload": …}. The application has two intended faults, which its dead letters
show: `pushed` has a bug, and `job_unfinished` and `runners_wanted` match the same jobs.
"""

import asyncio
from collections import deque
from typing import Any

import missive
from missive import HandlingContext, JSONMessage
from missive.matchers import Field, OneOf, Present, Range, Some, Suffix

# Lists of dead letters and explanations may show these two values. All other content is masked.
proc = missive.Processor(JSONMessage, name="github-events", public=["event", ("payload", "action")])

# The latest lines of the team's feed. Any thread may append to a deque.
feed: deque[str] = deque(maxlen=100)


def payload_of(message: JSONMessage) -> dict[str, Any]:
    """Return the payload of the webhook."""
    payload: dict[str, Any] = message.get_json()["payload"]
    return payload


# Matchers are values: assign one to a name and use it in several places.
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


# Handlers that match one field


@proc.handle_for(Field("event", "push"))
def pushed(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a push."""
    push = payload_of(message)
    # An intended bug: head_commit is null when the push deletes a branch or a tag.
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


# Handlers that match several fields


@proc.handle_for(Field("event", "release") & Field(ACTION, "published"))
def release_notes(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a release."""
    release = payload_of(message)["release"]
    feed.append(f"released {release['name'] or release['tag_name']}")


@proc.handle_for(OPENED & Field("event", OneOf("issues", "pull_request")))
def triage(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a new issue or pull request, and mark urgent ones."""
    payload = payload_of(message)
    item = payload.get("issue") or payload["pull_request"]
    text = f"{item['title']} {item['body'] or ''}".casefold()
    feed.append(f"new: #{item['number']}" + (" (urgent)" if "crash" in text else ""))


@proc.handle_for(DISCUSSED & Field(ACTION, "labeled") & Field(("payload", "label", "name"), "bug"))
def bug_confirmed(message: JSONMessage, context: HandlingContext) -> None:
    """Note that an issue, a pull request or a discussion was labelled as a bug."""
    feed.append("one more confirmed bug")


@proc.handle_for(Field("event", Suffix("_comment")) & Field(ACTION, "created"))
def commented(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a comment on any object."""
    feed.append(f"{payload_of(message)['comment']['user']['login']} commented")


@proc.handle_for(
    Field("event", "pull_request")
    & Field(ACTION, OneOf("ready_for_review", "review_requested"))
    & ~Field(("payload", "sender", "type"), "Bot")
)
def review_wanted(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a pull request when a person asks for its review."""
    feed.append(f"please review #{payload_of(message)['number']}")


@proc.handle_for(DISCUSSED & Field(ACTION, OneOf("assigned", "unassigned", "milestoned", "demilestoned")))
def replanned(message: JSONMessage, context: HandlingContext) -> None:
    """Note that an issue or a pull request has a new assignee or milestone."""
    feed.append(f"{payload_of(message)['action']} by {payload_of(message)['sender']['login']}")


@proc.handle_for(Field("event", "deployment_status") & Field(("payload", "deployment_status", "state"), "success"))
def deployed(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a deployment that succeeded."""
    feed.append(f"deployed to {payload_of(message)['deployment']['environment']}")


@proc.handle_for(CHANGED & Field("event", OneOf("member", "organization", "repository", "team")))
def audit(message: JSONMessage, context: HandlingContext) -> None:
    """Record who changed a name, a permission or a setting."""
    payload = payload_of(message)
    feed.append(f"{payload['sender']['login']} changed {', '.join(payload['changes'])}")


@proc.handle_for(
    Field("event", OneOf("member", "membership", "org_block", "organization", "team", "team_add")) & ~CHANGED
)
def people(message: JSONMessage, context: HandlingContext) -> None:
    """Record who joined, who left, and who was blocked."""
    feed.append(f"{message.get_json()['event']}: {payload_of(message).get('action', 'added')}")


# An async handler runs on an event loop, concurrently with the others


@proc.handle_for(Field("event", OneOf("fork", "watch")) | (Field("event", "star") & Field(ACTION, "created")))
async def more_popular(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a star, a watcher or a fork in the chat."""
    stars = payload_of(message)["repository"]["stargazers_count"]
    await asyncio.sleep(0)  # a real handler calls the chat's API here
    feed.append(f"{stars} stars")


# Security


@proc.handle_for(ALERT & ALERT_RAISED)
def security_alert(message: JSONMessage, context: HandlingContext) -> None:
    """Call the person on duty."""
    feed.append(f"security: {message.get_json()['event']}")


@proc.handle_for(ALERT & ~ALERT_RAISED)
def security_alert_closed(message: JSONMessage, context: HandlingContext) -> None:
    """Discard an alert that is fixed or dismissed; the report counts it as discarded."""
    context.discard("alert closed")


@proc.handle_for(
    Field("event", "security_advisory")
    & Field(("payload", "security_advisory", "cvss", "score"), Range(ge=7))
    & Field(("payload", "security_advisory", "withdrawn_at"), None)
)
def severe_advisory(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a severe advisory that is not withdrawn (its withdrawn_at is null)."""
    feed.append(f"severe: {payload_of(message)['security_advisory']['ghsa_id']}")


@proc.handle_for(Field("event", "meta") | (Field("event", "installation") & Field(ACTION, OneOf("deleted", "suspend"))))
def access_lost(message: JSONMessage, context: HandlingContext) -> None:
    """Make a dead letter: GitHub stops sending events, and only a person can restore the access."""
    context.dead_letter("access lost", detail=f"by {payload_of(message)['sender']['login']}")


# Continuous integration


@proc.handle_for(JOB & COMPLETED & FAILED)
def job_failed(message: JSONMessage, context: HandlingContext) -> None:
    """Announce a broken build."""
    feed.append(f"broken: {message.get_json()['event']}")


@proc.handle_for(JOB & COMPLETED & ~FAILED)
def job_passed(message: JSONMessage, context: HandlingContext) -> None:
    """Note that a job has passed."""
    feed.append("a job is done")


@proc.handle_for(JOB & ~COMPLETED)
def job_unfinished(message: JSONMessage, context: HandlingContext) -> None:
    """Discard an event of a job that waits or runs."""
    context.discard("job not finished")


# An intended overlap: job_unfinished matches these jobs too, and Missive warns at the start. A message that both match
# becomes a dead letter; the order of the handlers does not matter.
@proc.handle_for(
    Field("event", OneOf("workflow_dispatch", "workflow_job"))
    & Field(("payload", "workflow_job", "labels"), Some("self-hosted"))
    & ~COMPLETED
)
def runners_wanted(message: JSONMessage, context: HandlingContext) -> None:
    """Request a runner for a job that waits for a self-hosted one."""
    feed.append("one more runner, please")


# Housekeeping


@proc.handle_for(DISCUSSED & Field(ACTION, OneOf("locked", "unlocked", "pinned", "unpinned")))
def moderated(message: JSONMessage, context: HandlingContext) -> None:
    """Discard the locks and pins of moderators."""
    context.discard("housekeeping")
