/**
 * Configuration of a pod: one JSON file, read by the supervisor alone. Each role gets, as a file in the run directory,
 * the part that it needs and nothing else.
 */
import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { Rejection } from '../attestation/errors.ts'

const absolutePath = z.string().startsWith('/', 'expected an absolute path')
/**
 * `machine`: what the machine has, in the order of `attester/machine.ts`; `simulated` is asked only where it has nothing
 * else, and not at all where it is null. `simulated`: nothing but the simulated processor.
 */
const attester = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('machine'), simulated: absolutePath.nullable() }),
  z.strictObject({ kind: z.literal('simulated'), socket: absolutePath }),
])
const listen = z.strictObject({ host: z.string().min(1), port: z.int().min(0).max(65535) })

/**
 * Whether the edge relays what AMD and Intel publish to browsers (`/collateral/...`): a closed table of addresses at
 * three hosts, GET only. Absent means no: then the edge asks nobody anything, and these paths answer 404. It needs a way
 * to the outside; where there is none, they answer 503.
 */
const collateralRelay = z.boolean().optional()

export const podConfig = z.strictObject({
  /** Sockets and role configurations of this run; created with mode 0700, at most 80 bytes long. */
  runDir: absolutePath,
  /** PostgreSQL's files, the inbox, the lock against a second pod. */
  dataDir: absolutePath,
  /** Port 0: the system chooses; the edge writes what it got to `edge.address` in the run directory. */
  listen,
  /** The LaunchConfig of PROTOCOL 2.1, as a file. */
  launchConfig: absolutePath,
  attester,
  /** A PostgreSQL server of the user's own; without it the supervisor starts one. */
  databaseUrl: z
    .string()
    .regex(/^postgres(ql)?:\/\//, 'expected postgres://')
    .optional(),
  collateralRelay,
  /** Version of the reference-value manifest that describes the roles of this run. */
  manifestVersion: z.int().min(1),
})
export type PodConfig = z.infer<typeof podConfig>

const edge = z.strictObject({ listen, collateralRelay })
/** `manifestVersion` is 0 where the release alone says it. */
const keyholder = z.strictObject({ launchConfig: absolutePath, attester, manifestVersion: z.int().min(0) })
/** `databaseUrl` names a role without DDL or file access; it answers only once the disk is open. */
const api = z.strictObject({ databaseUrl: z.string(), dataDir: absolutePath })
/** `adminUrl` may change the schema; `apiRole` is the role that gets rights on its tables, null on an outside server. */
const migrate = z.strictObject({ adminUrl: z.string(), apiRole: z.string().nullable() })

export const roleConfig = { edge, keyholder, api, migrate }
export type RoleConfigs = { [R in keyof typeof roleConfig]: z.infer<(typeof roleConfig)[R]> }

/** Throws a Rejection that names what is wrong: unknown keys by name, other errors by path. */
export function parseConfig<S extends z.ZodType>(schema: S, json: string, file: string): z.infer<S> {
  let value: unknown
  try {
    value = JSON.parse(json)
  } catch {
    throw new Rejection('format', 'configuration', `${file}: not JSON`)
  }
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const problems = result.error.issues.map(issue =>
    issue.code === 'unrecognized_keys'
      ? `unknown key ${issue.keys.map(key => `"${key}"`).join(', ')}${issue.path.length > 0 ? ` in ${issue.path.join('.')}` : ''}`
      : `${issue.path.join('.') || 'the file'}: ${issue.message}`,
  )
  throw new Rejection('format', 'configuration', `${file}: ${problems.join('; ')}`)
}

export const readConfig = <S extends z.ZodType>(schema: S, file: string): z.infer<S> =>
  parseConfig(schema, readFileSync(file, 'utf8'), file)
