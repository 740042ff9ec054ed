-- Ends a pause; no row comes back where there was none.
DELETE FROM pgwarm.pauses RETURNING node_name
