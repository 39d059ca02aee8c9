// Explores the state machines of the tree this file stands in, and prints what it found: node scripts/explorer/one.ts POWERS
import { type Policy, simulationPolicy } from '../../attestation/policy.ts'
import { openReferenceValues, signReferenceValues } from '../../attestation/reference-values.ts'
import { encodeLaunchConfig } from '../../attestation/session/launch.ts'
import { TestVendor } from '../../tests/support/vendor.ts'
import type { Powers, World } from './attacker.ts'
import { Repeatable } from './primitives.ts'
import { Chip, Client, NOW, type Owner, Pod } from './roles.ts'
import type { Report } from './report.ts'
import { type Cast, Search } from './search.ts'

const TRACES_AT_MOST = 1_000_000

const repeatable = new Repeatable()
const p = repeatable.primitives
const filled = (length: number, byte: number) => new Uint8Array(length).fill(byte)

const release = filled(32, 0x11)
const releaseKey = p.ed25519PublicKey(release)
const genuine = filled(48, 0x22)
const evil = filled(48, 0x33)

function owner(name: string, seed: Uint8Array): Owner {
  const publicKey = p.ed25519PublicKey(seed)
  const launch = encodeLaunchConfig({
    podId: filled(16, 0x44),
    owner: { algorithm: 1, key: publicKey },
    nextOwner: filled(32, 0),
    release: { threshold: 1, keys: [{ algorithm: 1, key: releaseKey }] },
    minManifest: 1,
  })
  return { name, seed, publicKey, launch }
}

async function manifest() {
  const signed = await signReferenceValues(
    p,
    {
      product: 'explored',
      version: 1,
      notBefore: NOW - 1,
      expires: NOW + 86_400,
      minVersion: 1,
      entries: [{ tee: 'simulated-snp', measurements: [genuine], flags: ['host-data'], minTcb: [] }],
      source: ['', filled(32, 0), filled(32, 0)],
    },
    [release],
  )
  return openReferenceValues(p, signed, { threshold: 1, keys: [[1, releaseKey]] })
}

async function cast(powers: Powers): Promise<Cast> {
  const vendor = await TestVendor.open()
  const honestChip = new Chip(await vendor.chip())
  const brokenChip = new Chip(await vendor.chip())
  const mine = owner('owner', filled(32, 0x55))
  const stranger = owner('stranger', filled(32, 0x66))
  const values = await manifest()
  const pinnedTo = async ({ silicon }: Chip): Promise<Policy> =>
    simulationPolicy(
      {
        manifest: values,
        manifestFloor: 1,
        launchHash: p.sha256(mine.launch),
        launchHash384: p.sha384(mine.launch),
        platform: { require: [await silicon.pin()] },
      },
      silicon.rootSha256,
    )
  const pod = (name: string, whose: Owner) => new Pod(name, repeatable, whose, honestChip, genuine)
  const world: World = {
    repeatable,
    honestChip,
    brokenChip,
    genuine,
    evil,
    owner: mine,
    stranger,
    strangersPod: about => pod(`stranger's pod for ${about}`, stranger),
    endedPod: pod('ended pod', mine),
    powers,
  }
  return {
    world,
    honestClient: new Client('client', repeatable, mine, await pinnedTo(honestChip), filled(32, 0x77)),
    deceivedClient: new Client('deceived client', repeatable, mine, await pinnedTo(brokenChip), filled(32, 0x88)),
    pods: [pod('pod', mine), pod('second pod', mine)],
  }
}

const powers = JSON.parse(process.argv[2] as string) as Powers
const { broken, ...rest } = await new Search(await cast(powers), TRACES_AT_MOST).run()
const report: Report = { ...rest, broken: Object.fromEntries(broken) }
console.log(JSON.stringify(report))
