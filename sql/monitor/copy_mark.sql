-- Says what the copy is one of, and that it is as new as can be.
INSERT INTO pgwarm.copies AS known (system_identifier, timeline, primary_name, copied_at)
VALUES ($1::text, $2::int8, $3::text, clock_timestamp())
ON CONFLICT (only_row) DO UPDATE
   SET system_identifier = EXCLUDED.system_identifier,
       timeline = EXCLUDED.timeline,
       primary_name = EXCLUDED.primary_name,
       copied_at = EXCLUDED.copied_at
