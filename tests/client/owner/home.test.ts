import * as nodeCrypto from 'node:crypto'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { hex, utf8 } from '../../../attestation/bytes.ts'
import { Malformed, Rejection, Unsupported } from '../../../attestation/errors.ts'
import { authenticateHead, encodeHead } from '../../../attestation/log/head.ts'
import { nodePrimitives } from '../../../attestation/primitives/node.ts'
import { openOwnerPolicy } from '../../../attestation/session/credentials.ts'
import { algorithm } from '../../../attestation/session/keys.ts'
import { encode, type Wire } from '../../../attestation/wire.ts'
import { StateFolder } from '../../../client/owner/folder.ts'
import { OwnerHome } from '../../../client/owner/home.ts'
import { Vault } from '../../../client/owner/vault.ts'

const p = nodePrimitives(nodeCrypto)
const cheap = { memoryKib: 64, passes: 1, lanes: 1 }
const release = async () => {
  const key = p.ed25519PublicKey(p.random(32))
  return { threshold: 1, keys: [{ algorithm: algorithm.ed25519, key }] }
}
const freshFolder = async () => StateFolder.open(join(await mkdtemp(join(tmpdir(), 'pod-home-')), 'state'))
const never = async (): Promise<Uint8Array> => {
  throw new Error('no passphrase should be asked for')
}
async function made(passphrase?: string) {
  const folder = await freshFolder()
  const given = { release: await release(), minManifest: 3, cost: cheap }
  const home = await OwnerHome.create(p, folder, passphrase ? { ...given, passphrase: utf8(passphrase) } : given)
  return { folder, home }
}
const noWait = async () => {}

test('an owner is made once and found again, with the same keys', async t => {
  const { folder, home } = await made()
  const first = await home.unlock(never)
  const again = await (await OwnerHome.open(p, folder)).unlock(never)
  t.deepEqual(again.roots, first.roots)
  t.deepEqual(again.launch, first.launch)
  const signature = await first.sign(utf8('m'))
  t.true(p.ed25519Verify(home.launchConfig.owner.key, utf8('m'), signature))
  await t.throwsAsync(OwnerHome.create(p, folder, { release: await release(), minManifest: 0 }), {
    instanceOf: Rejection,
    message: /already holds an owner/,
  })
  t.deepEqual((await (await OwnerHome.open(p, folder)).unlock(never)).roots, first.roots)
})

test('two first starts at once make one owner', async t => {
  const folder = await freshFolder()
  const given = { release: await release(), minManifest: 0 }
  const both = await Promise.allSettled([
    OwnerHome.create(p, folder, given),
    OwnerHome.create(p, await StateFolder.open(folder.path), given),
  ])
  t.deepEqual(both.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  await t.notThrowsAsync((await OwnerHome.open(p, folder)).unlock(never))
})

test('a wrong passphrase is called that, slows down, and is forgiven by a right one', async t => {
  const { folder, home } = await made('correct horse')
  const waits: number[] = []
  const wait = async (seconds: number) => void waits.push(seconds)
  for (const _ of [1, 2, 3]) {
    const error = await t.throwsAsync(
      home.unlock(async () => utf8('wrong'), wait),
      { instanceOf: Rejection },
    )
    t.is(error?.reason.code, 'passphrase')
    t.regex(error?.message ?? '', /wrong passphrase/)
  }
  t.deepEqual(waits, [1, 2, 4])
  t.is((await home.unlock(async () => utf8('correct horse'), wait)).roots.epoch, 0)
  await t.throwsAsync(home.unlock(async () => utf8('wrong'), wait))
  t.is(waits.at(-1), 1)
  t.deepEqual(await Vault.found(folder), { passphrase: true })
})

test('the passphrase as typed is wiped, and no secret stands in a file under a passphrase', async t => {
  const { folder, home } = await made('correct horse')
  const typed = utf8('correct horse')
  const owner = await home.unlock(async () => typed)
  t.true(typed.every(byte => byte === 0))
  for (const name of ['vault', 'pod']) {
    const file = hex((await folder.read(name)) as Uint8Array)
    t.false(file.includes(hex(owner.roots.ors)))
    t.false(file.includes(hex(owner.roots.drs)))
  }
})

test('a passphrase can be set, changed and removed', async t => {
  const { home } = await made()
  const { roots } = await home.unlock(never)
  await (await home.unlock(never)).setPassphrase(utf8('one'), cheap)
  await (await home.unlock(async () => utf8('one'), noWait)).setPassphrase(utf8('two'), cheap)
  await t.throwsAsync(
    home.unlock(async () => utf8('one'), noWait),
    { message: /wrong passphrase/ },
  )
  await (await home.unlock(async () => utf8('two'), noWait)).setPassphrase(null)
  t.deepEqual((await home.unlock(never)).roots, roots)
})

test('a changed byte anywhere in the vault is refused', async t => {
  const { folder, home } = await made('x')
  const good = (await folder.read('vault')) as Uint8Array
  for (let at = 0; at < good.length; at += 1 + Math.floor(good.length / 40)) {
    const bad = good.slice()
    bad[at] = (bad[at] as number) ^ 1
    await folder.write('vault', bad)
    await t.throwsAsync(
      home.unlock(async () => utf8('x'), noWait),
      undefined,
      `byte ${at}`,
    )
  }
})

test('every file: newer formats are refused by name, other labels and extra fields as damage', async t => {
  const { folder, home } = await made()
  const p1 = p.random(16)
  const head = authenticateHead(p, p.macKey(p.random(32)), {
    podId: p1,
    size: 1,
    logRoot: p.random(32),
    stateRoot: p.random(32),
    manifest: 1,
    policySeq: 1,
    bootId: p1,
    time: 1,
  })
  await home.heads.save(encodeHead(head))
  const readers: Record<string, () => Promise<unknown>> = {
    vault: () => home.unlock(never),
    pod: () => OwnerHome.open(p, folder),
    heads: () => home.heads.load(),
  }
  for (const [name, read] of Object.entries(readers)) {
    const good = (await folder.read(name)) as Uint8Array
    const withFile = async (value: Wire) => {
      await folder.write(name, encode(value))
      return t.throwsAsync(read(), undefined, name)
    }
    const newer = await withFile([`pas1-${name}`, 2, p.random(10)])
    t.true(newer instanceof Unsupported)
    t.true(newer?.message.includes(`${folder.path}/${name}`) && newer.message.includes('format 2'))
    t.true((await withFile(['pas1-other', 1, p.random(10)])) instanceof Malformed)
    t.true((await withFile([`pas1-${name}`, 1, encode([1, 2, 3, 4, 5, 6, 7, 8, 9])])) instanceof Malformed)
    t.true((await withFile([`pas1-${name}`, 1, p.random(10), null])) instanceof Malformed)
    await folder.write(name, good)
    await t.notThrowsAsync(read())
  }
})

test('release numbers rise, across openings', async t => {
  const { folder, home } = await made()
  t.deepEqual([await home.nextRelease(), await home.nextRelease()], [1, 2])
  t.is(await (await OwnerHome.open(p, folder)).nextRelease(), 3)
})

test('approving a platform makes a newer policy under the root', async t => {
  const { folder, home } = await made()
  const owner = await home.unlock(never)
  const pin = p.random(32)
  await owner.approvePlatform(pin)
  await owner.approvePlatform(pin)
  const policy = await openOwnerPolicy(p, await owner.policy(), home.launchConfig.owner)
  t.is(policy.sequence, 2)
  t.deepEqual(policy.platforms, [pin])
  t.deepEqual((await (await OwnerHome.open(p, folder)).policy()).platforms, [pin])
})

test('heads: only a higher one replaces the stored one; another log of the same size is an alarm', async t => {
  const { home } = await made()
  const podId = p.random(16)
  const at = (size: number, logRoot: Uint8Array) =>
    encodeHead(
      authenticateHead(p, p.macKey(new Uint8Array(32)), {
        podId,
        size,
        logRoot,
        stateRoot: p.random(32),
        manifest: 1,
        policySeq: 1,
        bootId: podId,
        time: size,
      }),
    )
  const ten = at(10, p.random(32))
  t.deepEqual(await home.heads.load(), { head: null, initialised: false })
  await Promise.all([home.heads.save(at(9, p.random(32))), home.heads.save(ten), home.heads.save(at(3, p.random(32)))])
  t.deepEqual(await home.heads.load(), { head: ten, initialised: true })
  await t.throwsAsync(home.heads.save(at(10, p.random(32))), { message: /two logs of 10 entries/ })
  t.deepEqual((await home.heads.load()).head, ten)
})

test('no reference values yet: says what to run', async t => {
  const { home } = await made()
  await t.throwsAsync(home.trust(), { message: /run pod up/ })
})
