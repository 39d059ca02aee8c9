/** What an unlocked pod works with, put together once. */
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import type { Prepared, Store } from '../store/store.ts'
import { Backup } from './backup.ts'
import { Buckets } from './buckets.ts'
import { Commits, type Happened } from './commits.ts'
import { Events } from './events.ts'
import { Items } from './items.ts'
import type { Keyholder } from './keyholder.ts'
import { PodTime } from './pod-time.ts'
import { Uploads } from './uploads.ts'

export class Data {
  readonly keyholder: Keyholder
  readonly store: Store
  readonly buckets: Buckets
  readonly items: Items
  readonly uploads: Uploads
  readonly events: Events
  readonly backup: Backup

  constructor(p: SyncPrimitives, keyholder: Keyholder, store: Store, mapKey: Uint8Array) {
    const time = new PodTime(keyholder)
    this.keyholder = keyholder
    this.store = store
    this.buckets = new Buckets(p, store, mapKey)
    this.events = new Events(store, keyholder)
    const watch = (happened: Happened) => {
      time.learn(happened.head)
      this.events.happened(happened)
    }
    const commits = new Commits(keyholder, store, this.buckets, watch)
    this.backup = new Backup(p, { keyholder, store, buckets: this.buckets, mapKey }, watch)
    this.items = new Items(p, { keyholder, store, buckets: this.buckets, commits, time })
    this.uploads = new Uploads(p, { keyholder, store, items: this.items })
  }

  /** A commit of the keyholder's own was written. */
  committed({ seq, buckets }: Prepared): void {
    this.buckets.wrote(buckets)
    this.events.happened({ seq, changes: [] })
  }
}
