-- One row where the extension amcheck can be created in this database, none where it cannot.
SELECT 1::int4 AS there FROM pg_available_extensions WHERE name = 'amcheck'
