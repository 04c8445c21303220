"""Every setting: one table of name, type, default, older names and meaning. All else is read from it."""

from __future__ import annotations

from collections import namedtuple
from datetime import timedelta

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: name, type, default, older names, meaning
    Row = tuple[str, str, Any, str, str]

DEFAULT_POOL = "prefork"
DEFAULT_PROCESS_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
DEFAULT_TASK_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"

#: Where a client finds its node unless told otherwise: this user's own.
DEFAULT_BROKER = "zmq://"

SETTINGS: tuple[Row, ...] = (
    (
        "accept_content",
        "list",
        ("json",),
        "CELERY_ACCEPT_CONTENT CELERY_CONTENT",
        "Names or content types of the serializers that a worker reads",
    ),
    (
        "arangodb_backend_settings",
        "dict",
        None,
        "CELERY_ARANGODB_BACKEND_SETTINGS",
        "ArangoDB backend: backend settings",
    ),
    ("azureblockblob_base_path", "string", "", "AZUREBLOCKBLOB_BASE_PATH", "Azure Blob backend: base path"),
    (
        "azureblockblob_connection_timeout",
        "int",
        20,
        "AZUREBLOCKBLOB_CONNECTION_TIMEOUT",
        "Azure Blob backend: connection timeout",
    ),
    (
        "azureblockblob_container_name",
        "string",
        "celery",
        "AZUREBLOCKBLOB_CONTAINER_NAME",
        "Azure Blob backend: container name",
    ),
    ("azureblockblob_read_timeout", "int", 120, "AZUREBLOCKBLOB_READ_TIMEOUT", "Azure Blob backend: read timeout"),
    (
        "azureblockblob_retry_increment_base",
        "int",
        2,
        "AZUREBLOCKBLOB_RETRY_INCREMENT_BASE",
        "Azure Blob backend: retry increment base",
    ),
    (
        "azureblockblob_retry_initial_backoff_sec",
        "int",
        2,
        "AZUREBLOCKBLOB_RETRY_INITIAL_BACKOFF_SEC",
        "Azure Blob backend: retry initial backoff sec",
    ),
    (
        "azureblockblob_retry_max_attempts",
        "int",
        3,
        "AZUREBLOCKBLOB_RETRY_MAX_ATTEMPTS",
        "Azure Blob backend: retry max attempts",
    ),
    (
        "beat_cron_starting_deadline",
        "int",
        None,
        "CELERYBEAT_CRON_STARTING_DEADLINE",
        "Seconds a missed cron run may be late and still be made up",
    ),
    (
        "beat_enable_remote_control",
        "bool",
        False,
        "CELERYBEAT_ENABLE_REMOTE_CONTROL",
        "Whether beat answers remote control commands",
    ),
    (
        "beat_max_loop_interval",
        "float",
        0,
        "CELERYBEAT_MAX_LOOP_INTERVAL",
        "Longest sleep of beat between two looks at its schedule; 0 is the scheduler's own default",
    ),
    (
        "beat_remote_control_max_tick_age",
        "float",
        None,
        "CELERYBEAT_REMOTE_CONTROL_MAX_TICK_AGE",
        "Seconds without a tick after which beat reports itself unhealthy",
    ),
    (
        "beat_schedule",
        "dict",
        {},
        "CELERYBEAT_SCHEDULE",
        "Periodic tasks: name to {task, schedule, args, kwargs, options}",
    ),
    (
        "beat_schedule_filename",
        "string",
        "celerybeat-schedule",
        "CELERYBEAT_SCHEDULE_FILENAME",
        "Where the persistent scheduler keeps its last run times",
    ),
    (
        "beat_scheduler",
        "string",
        "celery.beat:PersistentScheduler",
        "CELERYBEAT_SCHEDULER",
        "Class of the scheduler, as a path",
    ),
    (
        "beat_sync_every",
        "int",
        0,
        "CELERYBEAT_SYNC_EVERY",
        "Tasks sent between two writes of the schedule; 0 goes by time",
    ),
    ("broker_channel_error_retry", "bool", False, "BROKER_CHANNEL_ERROR_RETRY", "Kombu brokers: channel error retry"),
    (
        "broker_connection_max_retries",
        "int",
        100,
        "BROKER_CONNECTION_MAX_RETRIES",
        "Attempts to reach the broker before giving up",
    ),
    (
        "broker_connection_retry",
        "bool",
        True,
        "BROKER_CONNECTION_RETRY",
        "Whether a worker reconnects to a broker that it lost",
    ),
    (
        "broker_connection_retry_on_startup",
        "bool",
        None,
        "BROKER_CONNECTION_RETRY_ON_STARTUP",
        "Whether a worker waits for a broker that isn't there at its start",
    ),
    ("broker_connection_timeout", "float", 4, "BROKER_CONNECTION_TIMEOUT", "Seconds that a connection may take"),
    ("broker_failover_strategy", "string", None, "BROKER_FAILOVER_STRATEGY", "Kombu brokers: failover strategy"),
    ("broker_heartbeat", "int", 120, "BROKER_HEARTBEAT", "Kombu brokers: heartbeat"),
    ("broker_heartbeat_checkrate", "int", 3.0, "BROKER_HEARTBEAT_CHECKRATE", "Kombu brokers: heartbeat checkrate"),
    ("broker_host", "string", None, "BROKER_HOST", "Kombu brokers: host"),
    ("broker_login_method", "string", None, "BROKER_LOGIN_METHOD", "Kombu brokers: login method"),
    (
        "broker_native_delayed_delivery_queue_type",
        "string",
        "quorum",
        "BROKER_NATIVE_DELAYED_DELIVERY_QUEUE_TYPE",
        "Kombu brokers: native delayed delivery queue type",
    ),
    ("broker_password", "string", None, "BROKER_PASSWORD", "Kombu brokers: password"),
    (
        "broker_pool_acquire_timeout",
        "float",
        None,
        "BROKER_POOL_ACQUIRE_TIMEOUT",
        "Seconds to wait for a free connection of the pool",
    ),
    (
        "broker_pool_limit",
        "int",
        10,
        "BROKER_POOL_LIMIT",
        "Connections kept open to a kombu broker; 0 or None keeps none",
    ),
    ("broker_port", "int", None, "BROKER_PORT", "Kombu brokers: port"),
    ("broker_read_url", "string", None, "BROKER_READ_URL", "Broker that workers read from, where it isn't broker_url"),
    ("broker_transport", "string", None, "BROKER_TRANSPORT", "Alias of the transport, where broker_url names none"),
    ("broker_transport_options", "dict", {}, "BROKER_TRANSPORT_OPTIONS", "Options handed to the transport"),
    (
        "broker_url",
        "string",
        None,
        "BROKER_URL",
        "The broker: zmq:// and its forms, or any kombu URL; the environment's CELERY_BROKER_URL wins",
    ),
    ("broker_use_ssl", "bool", False, "BROKER_USE_SSL", "TLS options of the broker connection"),
    ("broker_user", "string", None, "BROKER_USER", "Kombu brokers: user"),
    ("broker_vhost", "string", None, "BROKER_VHOST", "Kombu brokers: vhost"),
    ("broker_write_url", "string", None, "BROKER_WRITE_URL", "Broker that clients write to, where it isn't broker_url"),
    ("cache_backend", "string", None, "CELERY_CACHE_BACKEND", "URL of the cache result backend"),
    ("cache_backend_options", "dict", {}, "CELERY_CACHE_BACKEND_OPTIONS", "Options of the cache client"),
    ("cassandra_auth_kwargs", "string", None, "CASSANDRA_AUTH_KWARGS", "Cassandra backend: auth kwargs"),
    ("cassandra_auth_provider", "string", None, "CASSANDRA_AUTH_PROVIDER", "Cassandra backend: auth provider"),
    ("cassandra_bundle_path", "string", None, "CASSANDRA_BUNDLE_PATH", "Cassandra backend: bundle path"),
    ("cassandra_entry_ttl", "float", None, "CASSANDRA_ENTRY_TTL", "Cassandra backend: entry ttl"),
    ("cassandra_keyspace", "string", None, "CASSANDRA_KEYSPACE", "Cassandra backend: keyspace"),
    ("cassandra_options", "dict", {}, "CASSANDRA_OPTIONS", "Cassandra backend: options"),
    ("cassandra_port", "string", None, "CASSANDRA_PORT", "Cassandra backend: port"),
    ("cassandra_read_consistency", "string", None, "CASSANDRA_READ_CONSISTENCY", "Cassandra backend: read consistency"),
    ("cassandra_servers", "list", None, "CASSANDRA_SERVERS", "Cassandra backend: servers"),
    ("cassandra_table", "string", None, "CASSANDRA_TABLE", "Cassandra backend: table"),
    (
        "cassandra_write_consistency",
        "string",
        None,
        "CASSANDRA_WRITE_CONSISTENCY",
        "Cassandra backend: write consistency",
    ),
    ("control_exchange", "string", "celery", "CONTROL_EXCHANGE", "Remote control over a kombu broker: exchange"),
    (
        "control_queue_durable",
        "bool",
        False,
        "CONTROL_QUEUE_DURABLE",
        "Remote control over a kombu broker: queue durable",
    ),
    (
        "control_queue_exclusive",
        "bool",
        True,
        "CONTROL_QUEUE_EXCLUSIVE",
        "Remote control over a kombu broker: queue exclusive",
    ),
    (
        "control_queue_expires",
        "float",
        10.0,
        "CONTROL_QUEUE_EXPIRES",
        "Remote control over a kombu broker: queue expires",
    ),
    ("control_queue_ttl", "float", 300.0, "CONTROL_QUEUE_TTL", "Remote control over a kombu broker: queue ttl"),
    (
        "cosmosdbsql_collection_name",
        "string",
        "celerycol",
        "COSMOSDBSQL_COLLECTION_NAME",
        "Cosmos DB backend: collection name",
    ),
    (
        "cosmosdbsql_consistency_level",
        "string",
        "Session",
        "COSMOSDBSQL_CONSISTENCY_LEVEL",
        "Cosmos DB backend: consistency level",
    ),
    (
        "cosmosdbsql_database_name",
        "string",
        "celerydb",
        "COSMOSDBSQL_DATABASE_NAME",
        "Cosmos DB backend: database name",
    ),
    (
        "cosmosdbsql_max_retry_attempts",
        "int",
        9,
        "COSMOSDBSQL_MAX_RETRY_ATTEMPTS",
        "Cosmos DB backend: max retry attempts",
    ),
    (
        "cosmosdbsql_max_retry_wait_time",
        "int",
        30,
        "COSMOSDBSQL_MAX_RETRY_WAIT_TIME",
        "Cosmos DB backend: max retry wait time",
    ),
    (
        "couchbase_backend_settings",
        "dict",
        None,
        "CELERY_COUCHBASE_BACKEND_SETTINGS",
        "Couchbase backend: backend settings",
    ),
    (
        "database_create_tables_at_setup",
        "bool",
        True,
        "DATABASE_CREATE_TABLES_AT_SETUP",
        "Whether the database backend makes its tables at its start",
    ),
    (
        "database_engine_callback",
        "any",
        None,
        "DATABASE_ENGINE_CALLBACK",
        "Called with each engine that the database backend makes",
    ),
    (
        "database_engine_options",
        "dict",
        {"pool_pre_ping": True, "pool_recycle": 3600},
        "CELERY_RESULT_ENGINE_OPTIONS",
        "Options of SQLAlchemy's create_engine",
    ),
    (
        "database_short_lived_sessions",
        "bool",
        False,
        "CELERY_RESULT_DB_SHORT_LIVED_SESSIONS",
        "Whether each database operation has a session of its own",
    ),
    (
        "database_table_names",
        "dict",
        None,
        "CELERY_RESULT_DB_TABLENAMES",
        "Names of the tables: {'task': …, 'group': …}",
    ),
    (
        "database_table_schemas",
        "dict",
        None,
        "DATABASE_TABLE_SCHEMAS",
        "Schemas of the tables: {'task': …, 'group': …}",
    ),
    ("database_url", "string", None, "CELERY_RESULT_DBURI", "URL of the database result backend"),
    (
        "elasticsearch_max_retries",
        "int",
        None,
        "CELERY_ELASTICSEARCH_MAX_RETRIES",
        "Elasticsearch backend: max retries",
    ),
    (
        "elasticsearch_retry_on_timeout",
        "bool",
        None,
        "CELERY_ELASTICSEARCH_RETRY_ON_TIMEOUT",
        "Elasticsearch backend: retry on timeout",
    ),
    (
        "elasticsearch_save_meta_as_text",
        "bool",
        True,
        "CELERY_ELASTICSEARCH_SAVE_META_AS_TEXT",
        "Elasticsearch backend: save meta as text",
    ),
    ("elasticsearch_timeout", "float", None, "CELERY_ELASTICSEARCH_TIMEOUT", "Elasticsearch backend: timeout"),
    ("enable_utc", "bool", True, "ENABLE_UTC", "Whether times in messages are UTC"),
    ("event_exchange", "string", "celeryev", "CELERY_EVENT_EXCHANGE", "Events over a kombu broker: exchange"),
    ("event_queue_durable", "bool", False, "CELERY_EVENT_QUEUE_DURABLE", "Events over a kombu broker: queue durable"),
    (
        "event_queue_exclusive",
        "bool",
        True,
        "CELERY_EVENT_QUEUE_EXCLUSIVE",
        "Events over a kombu broker: queue exclusive",
    ),
    (
        "event_queue_expires",
        "float",
        60.0,
        "CELERY_EVENT_QUEUE_EXPIRES",
        "Seconds after which an unused event queue goes",
    ),
    ("event_queue_prefix", "string", "celeryev", "CELERY_EVENT_QUEUE_PREFIX", "Prefix of the names of event queues"),
    ("event_queue_ttl", "float", 5.0, "CELERY_EVENT_QUEUE_TTL", "Seconds after which an event that nobody read goes"),
    ("event_serializer", "string", "json", "CELERY_EVENT_SERIALIZER", "Serializer of events"),
    ("gcs_base_path", "string", "", "GCS_BASE_PATH", "Google Cloud Storage backend: base path"),
    ("gcs_bucket", "string", None, "GCS_BUCKET", "Google Cloud Storage backend: bucket"),
    ("gcs_project", "string", None, "GCS_PROJECT", "Google Cloud Storage backend: project"),
    ("gcs_ttl", "float", 0, "GCS_TTL", "Google Cloud Storage backend: ttl"),
    ("imports", "tuple", (), "CELERY_IMPORTS", "Modules that a worker imports at its start"),
    ("include", "tuple", (), "CELERY_INCLUDE", "More modules that a worker imports, after imports"),
    ("mongodb_backend_settings", "dict", None, "CELERY_MONGODB_BACKEND_SETTINGS", "MongoDB backend: backend settings"),
    ("redis_backend_use_ssl", "dict", None, "CELERY_REDIS_BACKEND_USE_SSL", "TLS options of the Redis backend"),
    ("redis_db", "int", None, "CELERY_REDIS_DB", "Database number of the Redis backend"),
    ("redis_host", "string", None, "CELERY_REDIS_HOST", "Host of the Redis backend"),
    ("redis_max_connections", "int", None, "CELERY_REDIS_MAX_CONNECTIONS", "Most connections of the Redis backend"),
    ("redis_password", "string", None, "CELERY_REDIS_PASSWORD", "Password of the Redis backend"),
    ("redis_port", "int", None, "CELERY_REDIS_PORT", "Port of the Redis backend"),
    (
        "redis_retry_on_timeout",
        "bool",
        False,
        "CELERY_REDIS_RETRY_ON_TIMEOUT",
        "Whether a Redis command that timed out is tried again",
    ),
    (
        "redis_socket_connect_timeout",
        "float",
        None,
        "CELERY_REDIS_SOCKET_CONNECT_TIMEOUT",
        "Seconds that a connection to Redis may take",
    ),
    (
        "redis_socket_keepalive",
        "bool",
        False,
        "CELERY_REDIS_SOCKET_KEEPALIVE",
        "Whether Redis connections use TCP keepalive",
    ),
    ("redis_socket_timeout", "float", 120.0, "CELERY_REDIS_SOCKET_TIMEOUT", "Seconds that a Redis command may take"),
    ("redis_username", "string", None, "CELERY_REDIS_USERNAME", "User of the Redis backend"),
    (
        "result_accept_content",
        "list",
        None,
        "RESULT_ACCEPT_CONTENT",
        "As accept_content, for results; None is the same as accept_content",
    ),
    (
        "result_backend",
        "string",
        None,
        "CELERY_RESULT_BACKEND",
        "Where results are kept; None is the broker's node; the environment's CELERY_RESULT_BACKEND wins",
    ),
    (
        "result_backend_always_retry",
        "bool",
        False,
        "CELERY_RESULT_BACKEND_ALWAYS_RETRY",
        "Whether a failing backend operation is tried again",
    ),
    (
        "result_backend_base_sleep_between_retries_ms",
        "int",
        10,
        "CELERY_RESULT_BACKEND_BASE_SLEEP_BETWEEN_RETRIES_MS",
        "Base of the back-off between two attempts, in ms",
    ),
    (
        "result_backend_max_retries",
        "float",
        float("inf"),
        "CELERY_RESULT_BACKEND_MAX_RETRIES",
        "Attempts at a backend operation",
    ),
    (
        "result_backend_max_sleep_between_retries_ms",
        "int",
        10000,
        "CELERY_RESULT_BACKEND_MAX_SLEEP_BETWEEN_RETRIES_MS",
        "Longest back-off between two attempts, in ms",
    ),
    (
        "result_backend_transport_options",
        "dict",
        {},
        "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS",
        "Options of the result backend's transport",
    ),
    (
        "result_cache_max",
        "int",
        -1,
        "CELERY_MAX_CACHED_RESULTS",
        "Results kept in the client's own cache; -1 keeps none",
    ),
    (
        "result_chord_expires",
        "float",
        None,
        "CELERY_RESULT_CHORD_EXPIRES",
        "Seconds that the parts of a chord are kept",
    ),
    (
        "result_chord_join_timeout",
        "float",
        3.0,
        "CELERY_RESULT_CHORD_JOIN_TIMEOUT",
        "Seconds that joining a chord's parts may take",
    ),
    (
        "result_chord_retry_interval",
        "float",
        1.0,
        "CELERY_RESULT_CHORD_RETRY_INTERVAL",
        "Seconds between two looks at an unfinished chord",
    ),
    ("result_compression", "string", None, "CELERY_RESULT_COMPRESSION", "Compression of results"),
    (
        "result_exchange",
        "string",
        "celeryresults",
        "CELERY_RESULT_EXCHANGE",
        "rpc:// results over a kombu broker: exchange",
    ),
    (
        "result_exchange_type",
        "string",
        "direct",
        "CELERY_RESULT_EXCHANGE_TYPE",
        "rpc:// results over a kombu broker: exchange type",
    ),
    (
        "result_expires",
        "float",
        timedelta(days=1),
        "CELERY_TASK_RESULT_EXPIRES",
        "Seconds (or a timedelta) that a result is kept; None and 0 keep it for ever",
    ),
    (
        "result_extended",
        "bool",
        False,
        "CELERY_RESULT_EXTENDED",
        "Whether a result also tells name, arguments, worker, retries and queue of its task",
    ),
    ("result_failure_expires", "float", None, "CELERY_RESULT_FAILURE_EXPIRES", "As result_expires, for failures"),
    (
        "result_persistent",
        "bool",
        None,
        "CELERY_RESULT_PERSISTENT",
        "Whether rpc:// results survive a broker's restart",
    ),
    ("result_serializer", "string", "json", "CELERY_RESULT_SERIALIZER", "Serializer of results"),
    ("s3_access_key_id", "string", None, "S3_ACCESS_KEY_ID", "S3 backend: access key id"),
    ("s3_base_path", "string", None, "S3_BASE_PATH", "S3 backend: base path"),
    ("s3_bucket", "string", None, "S3_BUCKET", "S3 backend: bucket"),
    ("s3_endpoint_url", "string", None, "S3_ENDPOINT_URL", "S3 backend: endpoint url"),
    ("s3_region", "string", None, "S3_REGION", "S3 backend: region"),
    ("s3_secret_access_key", "string", None, "S3_SECRET_ACCESS_KEY", "S3 backend: secret access key"),
    (
        "security_cert_store",
        "string",
        None,
        "CELERY_SECURITY_CERT_STORE",
        "Directory of the certificates that are trusted",
    ),
    (
        "security_certificate",
        "string",
        None,
        "CELERY_SECURITY_CERTIFICATE",
        "File of the certificate that goes with security_key",
    ),
    ("security_digest", "string", "sha256", "CELERY_SECURITY_DIGEST", "Digest of message signatures"),
    ("security_key", "string", None, "CELERY_SECURITY_KEY", "File of the key that signs messages"),
    ("security_key_password", "bytes", None, "CELERY_SECURITY_KEY_PASSWORD", "Password of the key's file"),
    (
        "ship_callables",
        "bool",
        None,
        "",
        "Whether tasks that a worker can't import travel with their first message; None: over ipc yes, over TCP no",
    ),
    (
        "task_acks_late",
        "bool",
        False,
        "CELERY_ACKS_LATE",
        "Whether a message is acknowledged after its task has run, and not before",
    ),
    (
        "task_acks_on_failure",
        "bool",
        None,
        "CELERY_ACKS_ON_FAILURE",
        "Whether a late acknowledged message is acknowledged when its task fails",
    ),
    (
        "task_acks_on_failure_or_timeout",
        "bool",
        True,
        "CELERY_ACKS_ON_FAILURE_OR_TIMEOUT",
        "The older spelling of task_acks_on_failure and task_acks_on_timeout in one",
    ),
    (
        "task_acks_on_timeout",
        "bool",
        None,
        "CELERY_ACKS_ON_TIMEOUT",
        "Whether a late acknowledged message is acknowledged when its task times out",
    ),
    (
        "task_allow_error_cb_on_chord_header",
        "bool",
        False,
        "CELERY_ALLOW_ERROR_CB_ON_CHORD_HEADER",
        "Whether a chord's error callbacks are also put on each of its header tasks",
    ),
    ("task_always_eager", "bool", False, "CELERY_ALWAYS_EAGER", "Whether delay() runs the task here and now"),
    ("task_annotations", "any", None, "CELERY_ANNOTATIONS", "Attributes to set on tasks, by name or by object"),
    ("task_compression", "string", None, "CELERY_MESSAGE_COMPRESSION", "Compression of messages"),
    (
        "task_create_missing_queue_exchange_type",
        "string",
        None,
        "CELERY_CREATE_MISSING_QUEUE_EXCHANGE_TYPE",
        "Queues of an AMQP broker: create missing queue exchange type",
    ),
    (
        "task_create_missing_queue_type",
        "string",
        "classic",
        "CELERY_CREATE_MISSING_QUEUE_TYPE",
        "Queues of an AMQP broker: create missing queue type",
    ),
    (
        "task_create_missing_queues",
        "bool",
        True,
        "CELERY_CREATE_MISSING_QUEUES",
        "Whether a queue that task_queues doesn't name may be used",
    ),
    (
        "task_default_delivery_mode",
        "string",
        2,
        "CELERY_DEFAULT_DELIVERY_MODE",
        "1 transient, 2 persistent (kombu brokers)",
    ),
    (
        "task_default_exchange",
        "string",
        None,
        "CELERY_DEFAULT_EXCHANGE",
        "Exchange of queues that name none; the default queue's name unless set",
    ),
    ("task_default_exchange_type", "string", "direct", "CELERY_DEFAULT_EXCHANGE_TYPE", "Type of the default exchange"),
    ("task_default_priority", "string", None, "CELERY_DEFAULT_PRIORITY", "Priority of tasks that name none"),
    ("task_default_queue", "string", "celery", "CELERY_DEFAULT_QUEUE", "Queue of tasks that are routed nowhere else"),
    (
        "task_default_queue_type",
        "string",
        "classic",
        "CELERY_DEFAULT_QUEUE_TYPE",
        "Queues of an AMQP broker: default queue type",
    ),
    ("task_default_rate_limit", "string", None, "CELERY_DEFAULT_RATE_LIMIT", "Rate limit of tasks that name none"),
    (
        "task_default_routing_key",
        "string",
        None,
        "CELERY_DEFAULT_ROUTING_KEY",
        "Routing key of tasks that name none; the default queue's name unless set",
    ),
    (
        "task_eager_propagates",
        "bool",
        False,
        "CELERY_EAGER_PROPAGATES_EXCEPTIONS",
        "Whether an eager task's exception is raised by apply()",
    ),
    (
        "task_ignore_result",
        "bool",
        False,
        "CELERY_IGNORE_RESULT",
        "Whether results are thrown away unless a task says otherwise",
    ),
    (
        "task_inherit_parent_priority",
        "bool",
        False,
        "CELERY_INHERIT_PARENT_PRIORITY",
        "Whether a task called by another has its priority",
    ),
    ("task_protocol", "int", 2, "CELERY_TASK_PROTOCOL", "Version of the message protocol"),
    (
        "task_publish_retry",
        "bool",
        True,
        "CELERY_TASK_PUBLISH_RETRY",
        "Whether publishing is tried again when the broker can't be reached",
    ),
    (
        "task_publish_retry_policy",
        "dict",
        {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
        "CELERY_TASK_PUBLISH_RETRY_POLICY",
        "How often and how long publishing is tried again",
    ),
    (
        "task_queue_max_priority",
        "int",
        None,
        "CELERY_QUEUE_MAX_PRIORITY",
        "Highest priority that queues are declared with (AMQP)",
    ),
    (
        "task_queues",
        "dict",
        None,
        "CELERY_QUEUES",
        "Queues that workers read by default: kombu Queue objects, or a dict by name",
    ),
    (
        "task_reject_on_worker_lost",
        "bool",
        None,
        "CELERY_REJECT_ON_WORKER_LOST",
        "Whether a late acknowledged task goes back to its queue when its worker is lost",
    ),
    (
        "task_remote_tracebacks",
        "bool",
        False,
        "CELERY_REMOTE_TRACEBACKS",
        "Whether an exception from a result carries the worker's traceback",
    ),
    ("task_repr_maxlevels", "int", 3, "CELERY_REPR_MAXLEVELS", "How deep arguments are shown in logs and events"),
    (
        "task_retry_on_worker_lost",
        "bool",
        False,
        "CELERY_RETRY_ON_WORKER_LOST",
        "Whether a task whose worker is lost is retried",
    ),
    (
        "task_routes",
        "any",
        None,
        "CELERY_ROUTES",
        "Where tasks go: dict by name or pattern, list of such, function, or path of a router",
    ),
    ("task_send_sent_event", "bool", False, "CELERY_SEND_TASK_SENT_EVENT", "Whether clients send task-sent events"),
    ("task_serializer", "string", "json", "CELERY_TASK_SERIALIZER", "Serializer of messages"),
    (
        "task_soft_time_limit",
        "float",
        None,
        "CELERYD_TASK_SOFT_TIME_LIMIT",
        "Seconds after which SoftTimeLimitExceeded is raised in a task",
    ),
    (
        "task_store_eager_result",
        "bool",
        False,
        "CELERY_STORE_EAGER_RESULT",
        "Whether results of eager tasks are stored",
    ),
    (
        "task_store_errors_even_if_ignored",
        "bool",
        False,
        "CELERY_STORE_ERRORS_EVEN_IF_IGNORED",
        "Whether failures are stored although results are ignored",
    ),
    ("task_time_limit", "float", None, "CELERYD_TASK_TIME_LIMIT", "Seconds after which a task's process is killed"),
    (
        "task_track_started",
        "bool",
        False,
        "CELERY_TRACK_STARTED",
        "Whether a task's start is stored as the state STARTED",
    ),
    ("timezone", "string", None, "CELERY_TIMEZONE", "Zone of times without one, and of schedules; UTC unless set"),
    ("worker_agent", "string", None, "CELERYD_AGENT", "Kombu brokers: agent"),
    (
        "worker_autoscaler",
        "string",
        "celery.worker.autoscale:Autoscaler",
        "CELERYD_AUTOSCALER",
        "Class of the autoscaler, as a path",
    ),
    (
        "worker_cancel_long_running_tasks_on_connection_loss",
        "bool",
        False,
        "CELERYD_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS",
        "Whether late acknowledged tasks are cancelled when the broker is lost",
    ),
    (
        "worker_concurrency",
        "any",
        None,
        "CELERYD_CONCURRENCY",
        "Processes or threads that run tasks; None is one per processor",
    ),
    (
        "worker_consumer",
        "string",
        "celery.worker.consumer:Consumer",
        "CELERYD_CONSUMER",
        "Class of the consumer, as a path",
    ),
    (
        "worker_deduplicate_successful_tasks",
        "bool",
        False,
        "CELERYD_DEDUPLICATE_SUCCESSFUL_TASKS",
        "Whether a redelivered task that already succeeded is skipped",
    ),
    (
        "worker_detect_quorum_queues",
        "bool",
        True,
        "CELERYD_DETECT_QUORUM_QUEUES",
        "Kombu brokers: detect quorum queues",
    ),
    ("worker_direct", "bool", False, "CELERY_WORKER_DIRECT", "Whether each worker also reads a queue of its own name"),
    (
        "worker_disable_prefetch",
        "bool",
        False,
        "CELERYD_DISABLE_PREFETCH",
        "Whether a worker takes a task only when it can start it",
    ),
    ("worker_disable_rate_limits", "bool", False, "CELERY_DISABLE_RATE_LIMITS", "Whether rate limits are ignored"),
    (
        "worker_enable_prefetch_count_reduction",
        "bool",
        True,
        "CELERYD_ENABLE_PREFETCH_COUNT_REDUCTION",
        "Kombu brokers: enable prefetch count reduction",
    ),
    (
        "worker_enable_remote_control",
        "bool",
        True,
        "CELERY_ENABLE_REMOTE_CONTROL",
        "Whether a worker answers remote control commands",
    ),
    (
        "worker_enable_soft_shutdown_on_idle",
        "bool",
        False,
        "CELERYD_ENABLE_SOFT_SHUTDOWN_ON_IDLE",
        "Whether the soft shutdown waits although no task is running",
    ),
    ("worker_eta_task_limit", "int", None, "CELERYD_ETA_TASK_LIMIT", "Most tasks with an ETA that a worker holds"),
    (
        "worker_hijack_root_logger",
        "bool",
        True,
        "CELERYD_HIJACK_ROOT_LOGGER",
        "Whether a worker takes over the root logger",
    ),
    ("worker_log_color", "bool", None, "CELERYD_LOG_COLOR", "Whether logs are coloured; None: on a terminal"),
    ("worker_log_datefmt", "string", None, "CELERYD_LOG_DATEFMT", "Date format of log lines"),
    (
        "worker_log_format",
        "string",
        DEFAULT_PROCESS_LOG_FMT,
        "CELERYD_LOG_FORMAT",
        "Format of log lines",
    ),
    ("worker_lost_wait", "float", 10.0, "CELERYD_WORKER_LOST_WAIT", "Seconds to wait for the answer of a lost process"),
    (
        "worker_max_memory_per_child",
        "int",
        None,
        "CELERYD_MAX_MEMORY_PER_CHILD",
        "KiB after which a process is replaced",
    ),
    (
        "worker_max_tasks_per_child",
        "int",
        None,
        "CELERYD_MAX_TASKS_PER_CHILD",
        "Tasks after which a process is replaced",
    ),
    ("worker_pool", "string", DEFAULT_POOL, "CELERYD_POOL", "prefork, threads, solo or the path of a pool class"),
    ("worker_pool_putlocks", "bool", True, "CELERYD_POOL_PUTLOCKS", "Kombu brokers: pool putlocks"),
    ("worker_pool_restarts", "bool", False, "CELERYD_POOL_RESTARTS", "Whether the pool_restart command is allowed"),
    (
        "worker_pool_start_method",
        "string",
        "fork",
        "CELERYD_POOL_START_METHOD",
        "How processes of the pool start: fork or spawn",
    ),
    (
        "worker_prefetch_multiplier",
        "int",
        4,
        "CELERYD_PREFETCH_MULTIPLIER",
        "Tasks that a kombu broker hands out ahead, per process",
    ),
    (
        "worker_proc_alive_timeout",
        "float",
        4.0,
        "CELERYD_PROC_ALIVE_TIMEOUT",
        "Seconds that a new process of the pool may take to be ready",
    ),
    ("worker_redirect_stdouts", "bool", True, "CELERY_REDIRECT_STDOUTS", "Whether what tasks print goes to the log"),
    (
        "worker_redirect_stdouts_level",
        "string",
        "WARNING",
        "CELERY_REDIRECT_STDOUTS_LEVEL",
        "Level of what tasks print",
    ),
    (
        "worker_send_task_events",
        "bool",
        False,
        "CELERY_SEND_EVENTS",
        "Whether a worker sends task events from its start",
    ),
    (
        "worker_soft_shutdown_timeout",
        "float",
        0.0,
        "CELERYD_SOFT_SHUTDOWN_TIMEOUT",
        "Seconds between a soft and a cold shutdown",
    ),
    ("worker_state_db", "string", None, "CELERYD_STATE_DB", "File that keeps revocations over a restart"),
    ("worker_task_log_datefmt", "string", None, "CELERYD_TASK_LOG_DATEFMT", "Date format of task log lines"),
    (
        "worker_task_log_format",
        "string",
        DEFAULT_TASK_LOG_FMT,
        "CELERYD_TASK_LOG_FORMAT",
        "Format of task log lines",
    ),
    ("worker_timer", "string", None, "CELERYD_TIMER", "Class of the timer, as a path"),
    ("worker_timer_precision", "float", 1.0, "CELERYD_TIMER_PRECISION", "Longest sleep of the timer"),
)

_TRUE = frozenset({"1", "y", "yes", "t", "true", "on"})
_FALSE = frozenset({"0", "n", "no", "f", "false", "off"})


def strtobool(term: str | bool, table: dict[str, bool] | None = None) -> bool:
    """Read yes, no, on, off, true, false, 1 and 0; anything else is a TypeError."""
    if not isinstance(term, str):
        return term
    word = term.lower()
    if table is not None:
        if word in table:
            return table[word]
    elif word in _TRUE:
        return True
    elif word in _FALSE:
        return False
    raise TypeError(f"{term!r} is neither yes nor no")


def _any(value: Any) -> Any:
    return value


_READERS: dict[str, Any] = {
    "string": str,
    "int": int,
    "float": float,
    "any": _any,
    "bytes": _any,
    "bool": strtobool,
    "dict": dict,
    "tuple": tuple,
    "list": list,
}


class Option:
    """One setting: what it is called, what it holds and what it means.

    Arguments:
        others: whatever else somebody wants to remember of it, as attributes.
    """

    #: What reads a text, by type.
    typemap = _READERS

    def __init__(
        self,
        default: Any = None,
        *_: Any,
        name: str = "",
        type: str = "any",
        old: Any = (),
        doc: str = "",
        **others: Any,
    ) -> None:
        self.default = default
        self.name = name
        self.type = type
        self.old = old
        self.doc = doc
        self.__dict__.update(others)

    def to_python(self, value: Any) -> Any:
        """The value that a command line's text stands for."""
        return _READERS[self.type](value)

    def __repr__(self) -> str:
        return f"<Option: {self.name} type->{self.type} default->{self.default!r}>"


OPTIONS: dict[str, Option] = {
    name: Option(default, name=name, type=kind, old=tuple(old.split()), doc=doc)
    for name, kind, default, old, doc in SETTINGS
}
DEFAULTS: dict[str, Any] = {name: option.default for name, option in OPTIONS.items()}
SETTING_KEYS: frozenset[str] = frozenset(OPTIONS)

#: Older name to today's, and back to the first older name.
TO_NEW: dict[str, str] = {old: name for name, option in OPTIONS.items() for old in option.old}
TO_OLD: dict[str, str] = {name: option.old[0] for name, option in OPTIONS.items() if option.old}


#: Options in two levels, as Celery has them: those of a namespace by the rest of their names, the others by themselves.
NAMESPACES: dict[str, Any] = {}


def _space(name: str) -> tuple[str | None, str]:
    """Namespace and rest of a setting's name."""
    space, _, rest = name.partition("_")
    return (space, rest) if rest and space in _SPACES else (None, name)


_SPACES = frozenset(
    [
        "arangodb", "azureblockblob", "beat", "broker", "cache", "cassandra", "control", "cosmosdbsql", "couchbase",
        "database", "elasticsearch", "event", "gcs", "mongodb", "redis", "result", "s3", "security", "task", "worker",
    ]
)  # fmt: skip
for _name, _option in OPTIONS.items():
    _at, _rest = _space(_name)
    if _at is None or _name in ("result_accept_content",):
        NAMESPACES[_name] = _option
    else:
        NAMESPACES.setdefault(_at, {})[_rest] = _option

# under the names that other packages know
_OLD_DEFAULTS: dict[str, Any] = {old: DEFAULTS[name] for old, name in TO_NEW.items()}
_TO_NEW_KEY = TO_NEW
_TO_OLD_KEY = TO_OLD
_OLD_SETTING_KEYS = frozenset(_OLD_DEFAULTS)

searchresult = namedtuple("searchresult", ("namespace", "key", "type"))


def find(name: str, namespace: str = "celery") -> Any:
    """Namespace, rest of the name and option of a setting that is named with or without its namespace.

    Raises:
        KeyError: there is no such setting.
    """
    inside = NAMESPACES.get(namespace.lower())
    if isinstance(inside, dict) and name.lower() in inside:
        return searchresult(namespace, name.lower(), inside[name.lower()])
    for space, options in NAMESPACES.items():
        if isinstance(options, dict) and name.lower() in options:
            return searchresult(space, name.lower(), options[name.lower()])
    return searchresult(None, name.lower(), OPTIONS[name.lower()])
