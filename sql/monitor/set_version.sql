-- Writes down how far the monitor's schema has been brought.
INSERT INTO pgwarm.meta (version, cluster) VALUES ($1::int4, $2::text)
ON CONFLICT (only_row) DO UPDATE SET version = EXCLUDED.version
