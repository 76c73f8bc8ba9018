CREATE TABLE lrbench_schema (
    version INTEGER NOT NULL,
    description TEXT NOT NULL,
    applied_at TEXT NOT NULL,
    PRIMARY KEY (version)
);
CREATE TABLE lrbench_tasks (
    id INTEGER NOT NULL,
    uid VARCHAR(32) NOT NULL,
    dataset_key TEXT NOT NULL,
    model_key TEXT NOT NULL,
    dataset TEXT NOT NULL,
    model TEXT NOT NULL,
    num_classes BIGINT,
    num_train BIGINT,
    image_shape TEXT,
    num_parameters BIGINT,
    framework TEXT,
    optimizer TEXT,
    momentum DOUBLE,
    weight_decay DOUBLE,
    batch_size BIGINT,
    init TEXT,
    reference_lr DOUBLE,
    PRIMARY KEY (id),
    UNIQUE (uid)
);
CREATE INDEX lrbench_tasks_by_name ON lrbench_tasks (dataset_key, model_key);
CREATE TABLE lrbench_runs (
    id INTEGER NOT NULL,
    uid VARCHAR(32) NOT NULL,
    task_id INTEGER NOT NULL,
    function TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    policy TEXT NOT NULL,
    max_iterations BIGINT NOT NULL,
    seed BIGINT,
    split TEXT NOT NULL,
    status TEXT NOT NULL,
    source TEXT NOT NULL,
    created_at TEXT NOT NULL,
    top1 DOUBLE,
    top5 DOUBLE,
    top1_std DOUBLE,
    iterations_to_best DOUBLE,
    loss_difference DOUBLE,
    metrics TEXT NOT NULL,
    cost TEXT NOT NULL,
    environment TEXT NOT NULL,
    notes TEXT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (uid),
    FOREIGN KEY(task_id) REFERENCES lrbench_tasks (id)
);
CREATE INDEX lrbench_runs_by_source ON lrbench_runs (source);
CREATE INDEX lrbench_runs_by_task ON lrbench_runs (task_id, status, top1);
CREATE INDEX lrbench_runs_by_time ON lrbench_runs (created_at);
CREATE TABLE lrbench_curves (
    run_id INTEGER NOT NULL,
    points TEXT NOT NULL,
    PRIMARY KEY (run_id),
    FOREIGN KEY(run_id) REFERENCES lrbench_runs (id) ON DELETE CASCADE
);
