/** `pod grants …`: keys on this machine that reach one collection and not the rest. */
import { hex } from '../../attestation/bytes.ts'
import { Malformed, Rejection } from '../../attestation/errors.ts'
import { addGrant, listGrants } from '../owner/grants.ts'
import { collectionId, publishPolicy } from '../session/release.ts'
import type { Context } from './context.ts'
import { date, printable } from './terminal.ts'

const DAY_SECONDS = 24 * 3600
const verbs = ['read', 'create', 'update', 'delete'] as const

export type GrantOptions = Readonly<{ collection: readonly string[]; verbs: string; days: number }>

export async function add(context: Context, name: string, options: GrantOptions): Promise<void> {
  const wanted = options.verbs.split(',').map(word => {
    const known = verbs.find(verb => verb === word.trim())
    if (known === undefined) throw new Malformed(`--verbs: "${word}" is none of ${verbs.join(', ')}`, 'data')
    return known
  })
  const owner = await context.owner()
  const scopes = options.collection.map(each => ({
    collection: collectionId(context.primitives, owner.namespace, each),
    verbs: wanted,
    filter: null,
  }))
  const now = Math.floor(Date.now() / 1000)
  const valid = { now, seconds: options.days * DAY_SECONDS }
  const { serial, notAfter } = await addGrant(context.primitives, owner, name, scopes, valid)
  const fresh = await Promise.all(options.collection.map(each => owner.addCollection(each)))
  const document = { name, serial: hex(serial), collections: options.collection, verbs: wanted, notAfter }
  context.terminal.show(document, [
    `made ${hex(serial)}: ${wanted.join(', ')} in ${options.collection.map(printable).join(', ')}, until ${date(notAfter)}`,
    ...(fresh.some(Boolean) ? ['Next: pod unlock, which opens the new collection.'] : []),
  ])
}

export async function list(context: Context): Promise<void> {
  const home = await context.home()
  const [held, policy] = await Promise.all([listGrants(home), home.policy()])
  const grants = held.map(({ name, grant: { serial, scopes, notAfter } }) => ({
    name,
    serial: hex(serial),
    scopes: scopes.map(({ collection, verbs: may }) => ({ collection: collection && hex(collection), verbs: may })),
    notAfter,
    revoked: policy.revoked.some(known => hex(known) === hex(serial)),
  }))
  const lines = grants.map(({ name, serial, scopes, notAfter, revoked }) => {
    const may = [...new Set(scopes.flatMap(scope => scope.verbs))].join(', ')
    return `${serial}  ${name.padEnd(16)} ${may}; ${revoked ? 'REVOKED' : `until ${date(notAfter)}`}`
  })
  context.terminal.show({ grants }, lines.length === 0 ? ['no grants'] : lines)
}

export async function revoke(context: Context, name: string, { local }: { local?: boolean }): Promise<void> {
  const owner = await context.owner()
  const found = (await listGrants(owner.home)).find(each => each.name === name)
  if (found === undefined) throw new Rejection('credential', 'not-found', `no grant named ${name}: pod grants`)
  await owner.revoke(found.grant.serial)
  if (!local) await context.session(session => publishPolicy(session))
  const pod = local ? 'the pod learns it at the next unlock' : 'the pod knows'
  context.terminal.show({ name, serial: hex(found.grant.serial), published: !local }, [`revoked; ${pod}`])
}
