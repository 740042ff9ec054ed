-- Writes a copy of the registry into tables that are empty.
WITH roster AS (
    SELECT $1::text::json AS row
), nodes AS (
    INSERT INTO pgwarm.nodes
    SELECT entry.* FROM roster, json_populate_recordset(NULL::pgwarm.nodes, roster.row -> 'nodes') AS entry
), pauses AS (
    INSERT INTO pgwarm.pauses
    SELECT entry.* FROM roster, json_populate_recordset(NULL::pgwarm.pauses, roster.row -> 'pauses') AS entry
)
INSERT INTO pgwarm.events OVERRIDING SYSTEM VALUE
SELECT entry.* FROM roster, json_populate_recordset(NULL::pgwarm.events, roster.row -> 'events') AS entry
