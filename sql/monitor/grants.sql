-- The role that may watch and no more: it reads statistics and writes rows of this schema. Run after every step. Who
-- may not make roles leaves it out, and grants by hand what is needed.
DO $grants$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgwarm_monitor') THEN
        IF NOT (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user) THEN
            RETURN;
        END IF;
        CREATE ROLE pgwarm_monitor NOLOGIN;
        COMMENT ON ROLE pgwarm_monitor IS 'Watches the cluster: grant it to the user that cluster-monitor connects as.';
    END IF;
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        GRANT pg_monitor TO pgwarm_monitor;
    END IF;
    GRANT USAGE ON SCHEMA pgwarm TO pgwarm_monitor;
    GRANT SELECT ON ALL TABLES IN SCHEMA pgwarm TO pgwarm_monitor;
    GRANT INSERT, UPDATE, DELETE
       ON pgwarm.nodes, pgwarm.events, pgwarm.states, pgwarm.lag_history, pgwarm.reports, pgwarm.pauses,
          pgwarm.copies
       TO pgwarm_monitor;
END
$grants$;
