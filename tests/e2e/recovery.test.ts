/** Everything of the owner's is lost; the pod and its machine are not. By the command line, as people would. */
import { execFile } from 'node:child_process'
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import test, { type ExecutionContext } from 'ava'
import { algorithm } from '../../attestation/session/keys.ts'
import { connect, getMemories, items, releaseKeys, saveMemory } from '../../client/index.ts'
import { StateFolder } from '../../client/owner/folder.ts'
import { OwnerHome } from '../../client/owner/home.ts'
import { encodeHolderKey, openShareFor } from '../../client/recovery/holder.ts'
import { answerRequest, decodeRequest } from '../../client/recovery/request.ts'
import { decodePicture } from '../../client/cli/pictures.ts'
import { drillAnswer } from '../../client/recovery/deal.ts'
import { encodeHeldShare } from '../../client/recovery/manifest.ts'
import { scanSheet } from '../../client/recovery/scan.ts'
import { seriesOf } from '../../client/web/codes/series.ts'
import { pictureOfCode, pngOf, rendered } from '../support/paper.ts'
import { p, startTestPod, temporaryFolder } from '../support/pod.ts'

const main = resolve(import.meta.dirname, '../../client/cli/main.ts')
const run = promisify(execFile)
const now = () => Math.floor(Date.now() / 1000)

type Done = { code: number; json: Record<string, unknown>; err: string }
async function pod(home: string, ...args: string[]): Promise<Done> {
  try {
    const { stdout, stderr } = await run(process.execPath, [main, '--home', home, '--json', ...args])
    return { code: 0, json: JSON.parse(stdout), err: stderr }
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string }
    return { code, json: JSON.parse(stdout || '{}'), err: stderr + stdout }
  }
}
async function ok(t: ExecutionContext, home: string, ...args: string[]): Promise<Done['json']> {
  const { code, json, err } = await pod(home, ...args)
  t.is(code, 0, `${args.join(' ')}: ${err}`)
  return json
}

/** A friend with an app: keys made where the share is kept. */
function friend(name: string) {
  const seed = p.random(32)
  const pair = p.kemKeyPair(p.random(32))
  const sign = { algorithm: algorithm.ed25519, key: p.ed25519PublicKey(seed) }
  const key = { name, sign, kem: { algorithm: algorithm.xwing, key: pair.publicKey } }
  return { key, pair, sender: { key: sign, sign: (message: Uint8Array) => p.ed25519Sign(seed, message) } }
}

test.serial('an owner who lost every device comes back, by friends and by paper, to the same pod', async t => {
  const home = temporaryFolder(t)
  const files = temporaryFolder(t)
  const file = (name: string) => join(files, name)
  const first = await startTestPod(t, home)
  const session = await first.unlocked()
  await saveMemory(session, { text: 'the spare key is under the third pot' })
  await first.owner.addCollection('photos')
  await releaseKeys(session)
  await items(session, 'photos').create({ type: 'note', data: { text: 'in a collection of my own' } })
  await ok(t, home, 'devices', 'add', 'phone')
  await session.heads.settled()

  const friends = [friend('Ann'), friend('Ben'), friend('Cem')]
  for (const { key } of friends) writeFileSync(file(`${key.name}.key`), encodeHolderKey(key))
  const who = friends.flatMap(({ key }) => ['--friend', key.name])
  const plan = await ok(t, home, 'recovery', 'plan', ...who)
  t.is((plan['routes'] as unknown[]).length, 2)
  const none = await pod(home, 'recovery', 'kit', file('early.kit'))
  t.is(none.code, 10)
  t.regex(none.err, /no recovery plan counts yet/)

  const holders = friends.flatMap(({ key }) => ['--holder', `${key.name}=${file(`${key.name}.key`)}`])
  const made = await ok(t, home, 'recovery', 'set-up', ...who, ...holders, '--out', file('shares'))
  const given = made['files'] as { holder: string; file: string; pdf?: string }[]
  t.is(given.length, 4)
  const shares = new Map<string, Awaited<ReturnType<typeof openShareFor>>['share']>()
  for (const { key, pair } of friends) {
    const sealed = readFileSync(given.find(({ holder }) => holder === key.name)?.file as string)
    shares.set(key.name, (await openShareFor(p, pair, key, new Uint8Array(sealed))).share)
  }
  await t.throwsAsync(async () => {
    const [ann, ben] = friends as [(typeof friends)[0], (typeof friends)[0]]
    const sealed = readFileSync(given.find(({ holder }) => holder === 'Ann')?.file as string)
    await openShareFor(p, ben.pair, ann.key, new Uint8Array(sealed))
  })

  // The paper is read back; the friends answer a question. Only then does the plan count.
  const { file: sheet, pdf } = given.find(({ holder }) => holder === 'paper kit') as { file: string; pdf: string }
  const print = new Uint8Array(readFileSync(pdf))
  writeFileSync(file('scan.jpg'), rendered(print, 150, 'jpeg'))
  const { owner, ...rest } = scanSheet(p, decodePicture(rendered(print, 100, 'png')))
  const foreign = { 'another owner': { ...rest, owner: p.random(16) }, 'of plan 7': { ...rest, owner, version: 7 } }
  for (const [what, share] of Object.entries(foreign)) {
    writeFileSync(file('foreign.png'), pngOf(pictureOfCode(seriesOf(p, encodeHeldShare(share))[0] as string)))
    const { code, err } = await pod(home, 'recovery', 'confirm', '--image', file('foreign.png'))
    t.is(code, 10)
    t.regex(err, new RegExp(what))
  }
  t.regex((await pod(home, 'recovery', 'confirm', '--image', pdf)).err, /scan or photograph the page/)
  await ok(t, home, 'recovery', 'confirm', '--words-file', sheet)
  await ok(t, home, 'recovery', 'confirm', '--image', file('scan.jpg'))
  for (const { key } of friends) {
    t.is((await ok(t, home, 'recovery', 'status'))['active'], null)
    const { question } = await ok(t, home, 'recovery', 'confirm', '--ask', key.name)
    const nonce = new Uint8Array(Buffer.from(question as string, 'hex'))
    const share = shares.get(key.name) as Parameters<typeof drillAnswer>[1]
    const answer = Buffer.from(drillAnswer(p, share, nonce)).toString('hex')
    t.is((await pod(home, 'recovery', 'confirm', '--ask', key.name, '--answer', '00'.repeat(32))).code, 10)
    await ok(t, home, 'recovery', 'confirm', '--ask', key.name, '--answer', answer)
  }
  t.is((await ok(t, home, 'recovery', 'status'))['active'], 1)
  await ok(t, home, 'unlock')
  await ok(t, home, 'recovery', 'kit', file('pod.kit'))

  // The machine of the hoster goes on; nothing of the owner's does.
  const deviceFolder = temporaryFolder(t)
  cpSync(home, deviceFolder, { recursive: true, filter: path => !path.includes('/local/') })
  await first.stop()
  async function comeBack(words: boolean) {
    const anew = temporaryFolder(t)
    await run('cp', ['-a', join(home, 'local'), anew]) // PostgreSQL's files belong to a user of their own
    t.is((await pod(anew, 'recovery', 'begin', file('pod.kit'))).code, 30, 'lost or stolen is asked first')
    const begun = await ok(t, anew, 'recovery', 'begin', file('pod.kit'), '--lost')
    t.is((begun['spokenCode'] as string).split(' ').length, 6)
    t.true(readFileSync(sheet, 'utf8').includes(begun['owner'] as string))
    t.is((await pod(anew, 'recovery', 'finish', '--no-passphrase')).code, 10)
    if (words) {
      await ok(t, anew, 'recovery', 'add', '--image', file('scan.jpg'))
      await ok(t, anew, 'recovery', 'add', '--words-file', sheet)
    } else {
      await ok(t, anew, 'recovery', 'request', file('lost.request'))
      for (const { key, sender } of friends.slice(1)) {
        const request = decodeRequest(new Uint8Array(readFileSync(file('lost.request'))), now())
        const share = shares.get(key.name) as Parameters<typeof answerRequest>[3]
        writeFileSync(file('answer'), await answerRequest(p, sender, request, share, now()))
        await ok(t, anew, 'recovery', 'add', file('answer'))
      }
    }
    const back = await ok(t, anew, 'recovery', 'finish', '--no-passphrase')
    t.is((back['revoked'] as string[]).length, 1)
    t.deepEqual(back['collections'], ['memories', 'documents', 'photos'])
    return anew
  }
  for (const words of [false, true]) {
    const anew = await comeBack(words)
    const again = await startTestPod(t, anew)
    const recovered = await again.unlocked()
    const texts: string[] = []
    for await (const { text } of getMemories(recovered)) texts.push(text)
    t.deepEqual(texts, ['the spare key is under the third pot'])
    const notes = []
    for await (const { data } of items(recovered, 'photos').list()) notes.push(data)
    t.deepEqual(notes, [{ text: 'in a collection of my own' }])

    // The lost phone, should somebody find it, is nobody's any more.
    const old = await (await OwnerHome.open(p, await StateFolder.open(deviceFolder))).unlock(
      async () => new Uint8Array(),
    )
    await t.throwsAsync(connect(again.url, old.asDevice('phone'), { primitives: p }), { message: /refused/ })
    await recovered.heads.settled()
    await again.stop()
  }
})
