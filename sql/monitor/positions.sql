-- Where the primary was when, over the last hour, as any node wrote it down; oldest first.
SELECT extract(epoch FROM sampled_at)::float8 AS epoch, primary_lsn::text AS lsn
  FROM (SELECT sampled_at, primary_lsn
          FROM pgwarm.lag_history
         WHERE sampled_at > clock_timestamp() - interval '1 hour'
         ORDER BY sampled_at DESC
         LIMIT 5000) AS newest
 ORDER BY sampled_at
