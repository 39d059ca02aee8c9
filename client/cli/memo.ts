/** `pod memo …`: Memo's API on this machine, its accounts, and the way from Memo's packages to memories. */
import { readFile } from 'node:fs/promises'
import { Malformed } from '../../attestation/errors.ts'
import { utf8Text } from '../../attestation/bytes.ts'
import { entriesOfFile, entriesOfPod, entriesOfService, importMemos, type MemoEntry } from '../memo/import.ts'
import { MemoKey, MemoPublicKey } from '../memo/rsa.ts'
import { Accounts } from '../memo/serve/accounts.ts'
import { MEMO_COLLECTION } from '../memo/serve/library.ts'
import { holderOf } from '../owner/grants.ts'
import type { Session } from '../session/session.ts'
import type { Context } from './context.ts'
import { printable, secretFromFile } from './terminal.ts'

const EXPORT_CAP = 1024 * 1024 * 1024

async function fileOf(path: string, option: string): Promise<Uint8Array> {
  try {
    return new Uint8Array(await readFile(path))
  } catch (error) {
    throw new Malformed(`${option}: ${path} cannot be read: ${(error as NodeJS.ErrnoException).code}`, 'data')
  }
}

const accountsOf = async (context: Context): Promise<Accounts> => {
  const home = await context.home()
  return Accounts.in(context.primitives, home.folder)
}
const publicKeyOf = async (path: string): Promise<MemoPublicKey> =>
  MemoPublicKey.fromText(await fileOf(path, '--public-key'))

export async function listAccounts(context: Context): Promise<void> {
  const known = await (await accountsOf(context)).list()
  const accounts = known.map(({ name, publicKey }) => ({ name, publicKey }))
  const lines = accounts.map(
    ({ name, publicKey }) =>
      `${printable(name).padEnd(20)} ${publicKey === null ? 'no public key: cannot write' : 'may write'}`,
  )
  context.terminal.show({ accounts }, lines.length === 0 ? ['no accounts: pod memo accounts add NAME'] : lines)
}

export async function addAccount(context: Context, name: string, options: { publicKey?: string }): Promise<void> {
  const publicKey = options.publicKey === undefined ? null : await publicKeyOf(options.publicKey)
  const apiKey = await (await accountsOf(context)).add(name, publicKey)
  context.terminal.show({ name, apiKey }, [
    `API key of ${printable(name)}, shown this once: ${apiKey}`,
    ...(publicKey === null
      ? ['Its client writes once its public key is registered: pod memo accounts key NAME FILE.']
      : []),
  ])
}

export async function registerKey(context: Context, name: string, path: string): Promise<void> {
  const key = await publicKeyOf(path)
  await (await accountsOf(context)).register(name, key)
  context.terminal.show({ name, bits: key.bits }, [`registered a key of ${key.bits} bits for ${printable(name)}`])
}

export async function removeAccount(context: Context, name: string): Promise<void> {
  await (await accountsOf(context)).remove(name)
  context.terminal.show({ name, removed: true }, ['its API key works no more; its memories stay'])
}

/** Runs until Ctrl-C. */
export async function serve(context: Context, options: { port: number; grant: string }): Promise<void> {
  // Koa is for this command only: the others start faster without it.
  const { serveMemo } = await import('../memo/serve/serve.ts')
  const { primitives: p, terminal } = context
  const home = await context.home()
  const holder = await holderOf(p, home, options.grant)
  const accounts = await Accounts.in(p, home.folder)
  const url = await context.url(home)
  const service = await serveMemo(p, { url, holder, accounts, port: options.port })
  terminal.show({ url: service.url, pod: url, grant: options.grant }, [
    `Memo's API: ${service.url} (Ctrl-C ends it)`,
    ...((await accounts.list()).length === 0 ? ['There is no account yet: pod memo accounts add NAME.'] : []),
  ])
  await new Promise<void>(done => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => done())
  })
  await service.close()
}

export type MemoImportOptions = Readonly<{
  key: string
  signer?: string
  apiKeyFile?: string
  legacy?: boolean
  acceptUnverifiedWriters?: boolean
  collection: string
}>

/** Exit code 10 where packages were refused: nothing of them was imported, and nothing is lost. */
export async function importAccount(
  context: Context,
  source: string | undefined,
  options: MemoImportOptions,
): Promise<number> {
  const pem = await fileOf(options.key, '--key')
  const key = await MemoKey.fromPem(pem).finally(() => pem.fill(0))
  const { legacy = false, acceptUnverifiedWriters = false, collection, signer } = options
  const opening = {
    key,
    legacy,
    acceptUnverifiedWriters,
    collection,
    ...(signer && { signer: await publicKeyOf(signer) }),
  }
  return context.session(async session => {
    const entries = await entriesOf(session, source, options)
    const report = await context.terminal.progress('importing', update =>
      importMemos(session, entries, { ...opening, onProgress: done => update(done, done) }),
    )
    context.terminal.show({ collection, ...report }, [
      `${report.imported} imported, ${report.known} known already, ${report.refused.length} refused`,
      ...report.refused.map(({ id, reason }) => `refused ${printable(id)}: ${printable(reason)}`),
    ])
    return report.refused.length === 0 ? 0 : 10
  })
}

async function entriesOf(
  session: Session,
  source: string | undefined,
  { apiKeyFile }: MemoImportOptions,
): Promise<AsyncIterable<MemoEntry> | Iterable<MemoEntry>> {
  if (source === undefined) return entriesOfPod(session, MEMO_COLLECTION)
  if (!/^https?:\/\//.test(source)) {
    const bytes = await fileOf(source, 'source')
    if (bytes.length > EXPORT_CAP) throw new Malformed(`${source} holds more than 1 GiB`, 'data')
    return entriesOfFile(bytes)
  }
  const { protocol, hostname } = new URL(source)
  if (protocol === 'http:' && !['127.0.0.1', 'localhost', '[::1]'].includes(hostname)) {
    throw new Malformed(`${source}: an API key goes over https only, or stays on this machine`, 'data')
  }
  if (apiKeyFile === undefined) throw new Malformed('say --api-key-file FILE for a service', 'data')
  return entriesOfService(source, utf8Text(await secretFromFile(apiKeyFile)) ?? '')
}
