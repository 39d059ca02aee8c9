/**
 * The schema, in numbered steps that are never edited once released: a database says which step it is at, an older
 * one is brought up, a newer one is refused by name. Everything below is ciphertext, hashes, random ids and counts.
 */
import { Rejection, Unavailable, Unsupported } from '../../attestation/errors.ts'
import { type Connection, connect, type Queryable } from './database.ts'

/**
 * `ord` is an item's place in the order of creation: log position of its creating commit, then its place in there.
 * Ciphertext does not compress: STORAGE EXTERNAL spares the attempt. A bucket is written again and again: up to the
 * size of a page it stays in its row, which costs one update instead of one for each 2 KB.
 * A leaf's row also holds the roots of the perfect subtrees that it completes, lowest first, 32 bytes each: node
 * (level, index) of the log stands at place `level` of the row (index + 1) * 2^level - 1.
 */
const steps: readonly string[] = [
  `
  CREATE TABLE pod.items (
    coll uuid NOT NULL, id uuid NOT NULL, version bigint NOT NULL, epoch bigint NOT NULL, ord bigint NOT NULL,
    sealed bytea NOT NULL, PRIMARY KEY (coll, id));
  ALTER TABLE pod.items ALTER COLUMN sealed SET STORAGE EXTERNAL;
  CREATE INDEX items_by_creation ON pod.items (coll, ord);

  CREATE TABLE pod.log (seq bigint PRIMARY KEY, leaf bytea NOT NULL, nodes bytea NOT NULL);
  ALTER TABLE pod.log ALTER COLUMN leaf SET STORAGE EXTERNAL, ALTER COLUMN nodes SET STORAGE EXTERNAL;

  CREATE TABLE pod.head (only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one), size bigint NOT NULL, sealed bytea);
  INSERT INTO pod.head (size) VALUES (0);

  CREATE TABLE pod.buckets (index bigint PRIMARY KEY, sealed bytea NOT NULL, hash bytea NOT NULL) WITH (fillfactor = 50, toast_tuple_target = 8160);
  ALTER TABLE pod.buckets ALTER COLUMN sealed SET STORAGE EXTERNAL;

  CREATE TABLE pod.state_rows (id uuid PRIMARY KEY, version bigint NOT NULL, sealed bytea NOT NULL);

  CREATE TABLE pod.uploads (
    id uuid PRIMARY KEY, coll uuid NOT NULL, epoch bigint NOT NULL, sealed bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT now());
  CREATE TABLE pod.chunks (
    coll uuid NOT NULL, id uuid NOT NULL, index bigint NOT NULL, hash bytea NOT NULL, sealed bytea NOT NULL,
    PRIMARY KEY (coll, id, index));
  ALTER TABLE pod.chunks ALTER COLUMN sealed SET STORAGE EXTERNAL;
  `,
]

export const SCHEMA_VERSION = steps.length
/** Migrations of two starts at once wait for each other. */
const MIGRATION_LOCK = 7_306_085_001

async function versionOf(database: Queryable): Promise<number> {
  const [row] = await database.rows('SELECT version FROM pod.schema_version')
  const version = Number(row?.[0] ?? 0)
  if (version > SCHEMA_VERSION) {
    throw new Unsupported(
      'data',
      'unsupported-version',
      `the database has schema version ${version}, this pod knows up to ${SCHEMA_VERSION}: run the newer release`,
    )
  }
  return version
}

/** Refuses a database that these steps did not make, or made only in part. */
export async function checkSchema(database: Queryable): Promise<void> {
  const [known] = await database.rows("SELECT to_regclass('pod.schema_version') IS NOT NULL")
  const version = known?.[0] === 't' ? await versionOf(database) : 0
  if (version < SCHEMA_VERSION) {
    throw new Rejection(
      'data',
      'configuration',
      `the database has schema version ${version}, expected ${SCHEMA_VERSION}: it was not migrated`,
    )
  }
}

/**
 * Brings the schema up in one transaction, then lets `apiRole` read and write rows and nothing else (PROTOCOL 2.10:
 * no DDL, no files). Null on an outside server, where the user who migrates is the one who serves.
 */
export async function migrate(adminUrl: string, apiRole: string | null): Promise<void> {
  const database = await connect(adminUrl)
  try {
    await database.simple('BEGIN')
    await database.rows('SELECT pg_advisory_xact_lock($1)', [MIGRATION_LOCK])
    await database.simple('CREATE SCHEMA IF NOT EXISTS pod')
    await database.simple('CREATE TABLE IF NOT EXISTS pod.schema_version (version bigint NOT NULL)')
    const version = await versionOf(database)
    for (const step of steps.slice(version)) await database.simple(step)
    if (version === 0) await database.rows('INSERT INTO pod.schema_version VALUES ($1)', [SCHEMA_VERSION])
    else await database.rows('UPDATE pod.schema_version SET version = $1', [SCHEMA_VERSION])
    if (apiRole !== null) await grantRows(database, apiRole)
    await database.simple('COMMIT')
  } finally {
    await database.close()
  }
}

async function grantRows(database: Connection, apiRole: string): Promise<void> {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(apiRole)) throw new Unavailable('the name of the api role is not a plain one')
  await database.simple(`GRANT USAGE ON SCHEMA pod TO ${apiRole}`)
  await database.simple(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pod TO ${apiRole}`)
}
