/** What every command starts from: the owner's folder, the vault opened, a session with the pod. */
import * as nodeCrypto from 'node:crypto'
import { Malformed } from '../../attestation/errors.ts'
import { nodePrimitives } from '../../attestation/primitives/node.ts'
import type { SyncPrimitives } from '../../attestation/primitives/primitives.ts'
import { CollateralClient, type CollateralClientOptions } from '../collateral/client.ts'
import { folderCache } from '../owner/cache.ts'
import { StateFolder } from '../owner/folder.ts'
import { type OpenOwner, OwnerHome } from '../owner/home.ts'
import type { ReleasingOwner } from '../session/owner.ts'
import { connect, type ConnectOptions, type Session } from '../session/session.ts'
import { secretFromFile, type Terminal } from './terminal.ts'

export type Globals = Readonly<{
  home?: string
  url?: string
  json?: boolean
  passphraseFile?: string
  device?: string
}>

export class Context {
  readonly terminal: Terminal
  readonly globals: Globals
  readonly primitives: SyncPrimitives = nodePrimitives(nodeCrypto)
  #owner: Promise<OpenOwner> | null = null

  constructor(terminal: Terminal, globals: Globals) {
    this.terminal = terminal
    this.globals = globals
  }

  folder(): Promise<StateFolder> {
    return StateFolder.open(this.globals.home)
  }

  async home(): Promise<OwnerHome> {
    return OwnerHome.open(this.primitives, await this.folder())
  }

  /** The owner with the vault open; asks for the passphrase once, where one is set. */
  owner(): Promise<OpenOwner> {
    this.#owner ??= this.home().then(home => home.unlock(() => this.passphrase()))
    return this.#owner
  }

  passphrase(): Promise<Uint8Array> {
    const { passphraseFile } = this.globals
    return passphraseFile === undefined
      ? this.terminal.secret('Passphrase', '--passphrase-file FILE')
      : secretFromFile(passphraseFile)
  }

  /** Whom to ask for what evidence lacks; what they said is kept from one command to the next. */
  vendors(options: CollateralClientOptions = {}): CollateralClient {
    return new CollateralClient({ primitives: this.primitives, cache: folderCache(), ...options })
  }

  async url(home: Readonly<{ url: string | null }>): Promise<string> {
    const url = this.globals.url ?? home.url
    if (url === null) throw new Malformed('no address is known for this pod: say --url URL, or run pod up', 'data')
    return url
  }

  /** An appraised session, each step told; ends with the work. */
  async session<T>(
    work: (session: Session<ReleasingOwner>, owner: OpenOwner) => Promise<T>,
    tellSteps = false,
    options: Pick<ConnectOptions, 'answerSeconds'> = {},
  ): Promise<T> {
    const owner = await this.owner()
    const { device } = this.globals
    const acting = device === undefined ? owner : owner.asDevice(device)
    const url = await this.url(owner.home)
    const session = await this.terminal.progress(`verifying ${url}`, () =>
      connect<ReleasingOwner>(url, acting, {
        primitives: this.primitives,
        vendors: this.vendors(),
        ...(tellSteps && { onStep: step => this.terminal.step(step) }),
        ...options,
      }),
    )
    try {
      const result = await work(session, owner)
      await session.heads.settled()
      return result
    } finally {
      session.close()
    }
  }
}
