-- Whether the monitor's schema is there; its version is asked separately, since a table that is missing is an error.
SELECT to_regclass('pgwarm.meta') IS NOT NULL AS present,
       current_database()::text AS database
