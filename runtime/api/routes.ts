/**
 * Every route of the pod, in one table: who may use it and in which phase it exists (PROTOCOL 2.9, 2.10). There is no
 * check of phase or grant verb anywhere else but in the keyholder, which enforces both where the keys are.
 */
import type Koa from 'koa'
import type { Phase } from '../edge/verbs.ts'
import type { GrantVerb } from '../keyholder/verbs.ts'
import type { SealedRequest } from './carrier.ts'
import type { Data } from './data.ts'
import * as backup from './backup-routes.ts'
import * as files from './files-routes.ts'
import * as items from './items-routes.ts'
import * as log from './log-routes.ts'
import * as memories from './memories-routes.ts'
import type { SealedResponse } from './response.ts'
import type { Session } from './sessions.ts'

export type ApiPhase = Extract<Phase, 'locked' | 'opening' | 'unlocked' | 'suspect'>

/** What a handler works with besides Koa's context. */
export type CallState = {
  readonly session: Session
  /** By the names in the route's path. */
  params: Readonly<Record<string, string>>
  /** The pod as a whole: for `status`. */
  readonly pod: PodView
  /** Throws Unavailable while the store is not there. Only for routes that do not exist while locked. */
  data(): Data | Promise<Data>
  /** From the idempotency key, where one was sent: the item that a repeated request would make again. */
  newId: Uint8Array
}
export type PodView = Readonly<{ phase: ApiPhase; reason: string | null; data: Data | null }>
export type Call = Koa.ParameterizedContext<CallState> & {
  readonly req: SealedRequest
  readonly res: SealedResponse
}
export type Handler = (call: Call) => void | Promise<void>

/** What a session under a grant needs: a verb for the collection in the path, or that the handler asks for each. */
export type Needs = GrantVerb | 'each' | 'owner' | 'nothing'
export type Route = readonly [
  method: 'GET' | 'POST' | 'PUT' | 'DELETE',
  path: string,
  needs: Needs,
  phases: readonly ApiPhase[],
  handler: Handler,
]

const always: readonly ApiPhase[] = ['locked', 'opening', 'unlocked', 'suspect']
const readable: readonly ApiPhase[] = ['unlocked', 'suspect']
const writable: readonly ApiPhase[] = ['unlocked']

// biome-ignore format: a table
export const routes: readonly Route[] = [
  ['GET',    '/v1/status',                        'nothing', always,   log.status],
  ['GET',    '/v1/head',                          'nothing', readable, log.head],
  ['GET',    '/v1/log',                           'owner',   readable, log.leaves],
  ['GET',    '/v1/events',                        'each',    readable, log.events],

  ['POST',   '/v1/collections/:coll/items',       'create',  writable, items.create],
  ['GET',    '/v1/collections/:coll/items',       'read',    readable, items.list],
  ['GET',    '/v1/collections/:coll/items/:id',   'read',    readable, items.read],
  ['PUT',    '/v1/collections/:coll/items/:id',   'update',  writable, items.update],
  ['DELETE', '/v1/collections/:coll/items/:id',   'delete',  writable, items.remove],
  ['POST',   '/v1/batch',                         'each',    writable, items.batch],

  ['POST',   '/v1/memories',                      'each',    writable, memories.save],
  ['GET',    '/v1/memories',                      'each',    readable, memories.list],
  ['GET',    '/v1/memories/:coll/:id',            'read',    readable, memories.read],
  ['DELETE', '/v1/memories/:coll/:id',            'delete',  writable, memories.remove],

  ['POST',   '/v1/uploads',                       'each',    writable, files.start],
  ['GET',    '/v1/uploads/:id',                   'each',    writable, files.state],
  ['PUT',    '/v1/uploads/:id/:offset',           'each',    writable, files.write],
  ['POST',   '/v1/uploads/:id/commit',            'each',    writable, files.finish],
  ['DELETE', '/v1/uploads/:id',                   'each',    writable, files.abandon],
  ['GET',    '/v1/files/:coll/:id',               'read',    readable, files.read],

  ['GET',    '/v1/backup',                        'owner',   readable, backup.copy],
  ['POST',   '/v1/restore',                       'owner',   writable, backup.restore],
]
