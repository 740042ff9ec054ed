-- Brings what the nodes say of themselves up to date in a copy of the registry.
INSERT INTO pgwarm.reports
SELECT entry.* FROM json_populate_recordset(NULL::pgwarm.reports, $1::text::json) AS entry
ON CONFLICT (node_id) DO UPDATE
   SET reported_at = EXCLUDED.reported_at,
       report = EXCLUDED.report
