-- The settings that check-node judges, as SHOW prints them. A setting that the role may not see has no row.
SELECT name,
       pg_catalog.current_setting(name) AS value,
       pending_restart
  FROM pg_catalog.pg_settings
 WHERE name = ANY ($1)
    OR pending_restart
 ORDER BY name
