-- Step 1 of the monitor's schema: the nodes, what happened to them, and in which state everything was told to be.
CREATE SCHEMA pgwarm;

CREATE TABLE pgwarm.meta (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version int4 NOT NULL,
    cluster text NOT NULL
);
COMMENT ON TABLE pgwarm.meta IS 'One row: how far the schema has been brought, and the cluster it belongs to.';

CREATE TABLE pgwarm.nodes (
    id int4 PRIMARY KEY CHECK (id > 0),
    name text NOT NULL UNIQUE,
    kind text NOT NULL CHECK (kind IN ('node', 'dr', 'witness')),
    role text NOT NULL CHECK (role IN ('primary', 'standby', 'dr', 'witness')),
    upstream_id int4 REFERENCES pgwarm.nodes (id) ON DELETE SET NULL,
    conninfo text,
    slot_name text,
    priority int4 NOT NULL DEFAULT 100,
    active boolean NOT NULL DEFAULT true,
    registered_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX nodes_one_primary ON pgwarm.nodes (role) WHERE role = 'primary' AND active;
COMMENT ON TABLE pgwarm.nodes IS 'The registered nodes. The role is what was observed last, not what was configured.';

CREATE TABLE pgwarm.events (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node_id int4,
    node_name text NOT NULL,
    event text NOT NULL,
    successful boolean NOT NULL,
    happened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    observer text NOT NULL,
    details text NOT NULL DEFAULT ''
);
CREATE INDEX events_happened_at ON pgwarm.events (happened_at);
COMMENT ON TABLE pgwarm.events IS 'What happened, oldest first; bounded by monitor.keep_events.';

CREATE TABLE pgwarm.states (
    subject text PRIMARY KEY,
    state text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE pgwarm.states IS 'In which state each subject was told to be last: a change is told once, whoever sees it.';
