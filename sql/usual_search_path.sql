-- Looks for names where this user's sessions in this database usually do: as ALTER ROLE and ALTER DATABASE say.
SELECT set_config('search_path', coalesce((
    SELECT substr(item, length('search_path=') + 1)
    FROM pg_db_role_setting, unnest(setconfig) AS item
    WHERE item LIKE 'search_path=%'
      AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user))
    ORDER BY setrole = 0, setdatabase = 0
    LIMIT 1
), '"$user", public'), false)
