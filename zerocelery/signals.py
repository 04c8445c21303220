"""The 34 signals that Celery sends."""

from __future__ import annotations

from zerocelery.utils.dispatch import Signal

__all__ = (
    "after_setup_logger",
    "after_setup_task_logger",
    "after_task_publish",
    "beat_embedded_init",
    "beat_init",
    "before_task_publish",
    "celeryd_after_setup",
    "celeryd_init",
    "eventlet_pool_apply",
    "eventlet_pool_postshutdown",
    "eventlet_pool_preshutdown",
    "eventlet_pool_started",
    "heartbeat_sent",
    "import_modules",
    "setup_logging",
    "task_failure",
    "task_internal_error",
    "task_postrun",
    "task_prerun",
    "task_received",
    "task_rejected",
    "task_retry",
    "task_revoked",
    "task_sent",
    "task_success",
    "task_unknown",
    "user_preload_options",
    "worker_before_create_process",
    "worker_init",
    "worker_process_init",
    "worker_process_shutdown",
    "worker_ready",
    "worker_shutdown",
    "worker_shutting_down",
)

# Clients, when a task is sent
before_task_publish = Signal(
    {"body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"}, name="before_task_publish"
)
after_task_publish = Signal({"body", "headers", "exchange", "routing_key"}, name="after_task_publish")
task_sent = Signal({"task_id", "task", "args", "kwargs", "eta", "taskset"}, name="task_sent")

# Workers, for each task
task_received = Signal({"request"}, name="task_received")
task_prerun = Signal({"task_id", "task", "args", "kwargs"}, name="task_prerun")
task_postrun = Signal({"task_id", "task", "args", "kwargs", "retval", "state"}, name="task_postrun")
task_success = Signal({"result", "runtime"}, name="task_success")
task_retry = Signal({"request", "reason", "einfo"}, name="task_retry")
task_failure = Signal({"task_id", "exception", "args", "kwargs", "traceback", "einfo"}, name="task_failure")
task_internal_error = Signal(
    {"task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"}, name="task_internal_error"
)
task_revoked = Signal({"request", "terminated", "signum", "expired"}, name="task_revoked")
task_rejected = Signal({"message", "exc"}, name="task_rejected")
task_unknown = Signal({"message", "exc", "name", "id"}, name="task_unknown")

# Workers, for themselves
celeryd_init = Signal({"instance", "conf", "options"}, name="celeryd_init")
celeryd_after_setup = Signal({"instance", "conf"}, name="celeryd_after_setup")
import_modules = Signal((), name="import_modules")
worker_init = Signal((), name="worker_init")
worker_before_create_process = Signal((), name="worker_before_create_process")
worker_process_init = Signal((), name="worker_process_init")
worker_process_shutdown = Signal({"pid", "exitcode"}, name="worker_process_shutdown")
worker_ready = Signal((), name="worker_ready")
worker_shutdown = Signal((), name="worker_shutdown")
worker_shutting_down = Signal({"sig", "how", "exitcode"}, name="worker_shutting_down")
heartbeat_sent = Signal((), name="heartbeat_sent")

# Logging
setup_logging = Signal({"loglevel", "logfile", "format", "colorize"}, name="setup_logging")
after_setup_logger = Signal({"logger", "loglevel", "logfile", "format", "colorize"}, name="after_setup_logger")
after_setup_task_logger = Signal(
    {"logger", "loglevel", "logfile", "format", "colorize"}, name="after_setup_task_logger"
)

# beat
beat_init = Signal((), name="beat_init")
beat_embedded_init = Signal((), name="beat_embedded_init")

# Green threads
eventlet_pool_started = Signal((), name="eventlet_pool_started")
eventlet_pool_preshutdown = Signal((), name="eventlet_pool_preshutdown")
eventlet_pool_postshutdown = Signal((), name="eventlet_pool_postshutdown")
eventlet_pool_apply = Signal({"target", "args", "kwargs"}, name="eventlet_pool_apply")

# Programs
user_preload_options = Signal({"app", "options"}, name="user_preload_options")
