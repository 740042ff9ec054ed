-- Step 3 of the monitor's schema: what makes the database of a witness the copy that it is.
CREATE TABLE pgwarm.copies (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    system_identifier text NOT NULL,
    timeline int8 NOT NULL,
    primary_name text NOT NULL,
    copied_at timestamptz NOT NULL
);
COMMENT ON TABLE pgwarm.copies IS 'One row where a witness keeps a copy of the registry here: of which system, how new.';
