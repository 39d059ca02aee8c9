/**
 * Policies as files: `policies/*.json` are presets for whoever owns no pod, `policies/schema.json` describes the form. A
 * preset names every rule that its cloud forces it to waive, with the reason; a file that misses a rule does not load.
 * `own-machine` is for a computer without confidential computing: its TPM says what was booted, and nothing more.
 */
import { utf8Text } from '../../attestation/bytes.ts'
import { Malformed } from '../../attestation/errors.ts'
import { parsePolicy, type Policy } from '../../attestation/policy.ts'
import { parseReferenceValues, REFERENCE_VALUES_CAP, type UnsignedValues } from '../../attestation/reference-values.ts'
import { decodeCorim, isCorim } from '../../attestation/standards/corim.ts'
import aws from './policies/aws.json' with { type: 'json' }
import azure from './policies/azure.json' with { type: 'json' }
import bareMetal from './policies/bare-metal.json' with { type: 'json' }
import google from './policies/google.json' with { type: 'json' }
import googleVtpm from './policies/google-vtpm.json' with { type: 'json' }
import ownMachine from './policies/own-machine.json' with { type: 'json' }
import schema from './policies/schema.json' with { type: 'json' }
import { readCapped } from './evidence-files.ts'

const POLICY_CAP = 64 * 1024

export const presets = {
  'bare-metal': bareMetal,
  azure,
  google,
  'google-vtpm': googleVtpm,
  aws,
  'own-machine': ownMachine,
} as const
export type PresetName = keyof typeof presets

const isPreset = (name: string): name is PresetName => Object.hasOwn(presets, name)
export const preset = (name: PresetName): Policy => parsePolicy(JSON.stringify(presets[name]))

/** Evidence of this installation's own silicon, by its root. */
export function simulationPreset(rootSha256: readonly Uint8Array[]): Policy {
  if (rootSha256.length === 0) {
    throw new Malformed('policy simulation: no simulated silicon is known here; run pod up first', 'policy')
  }
  const reason = 'simulated silicon: the whole path is exercised, no hardware protects the memory'
  return { ...preset('bare-metal'), acceptSimulatedEvidence: { rootSha256, reason } }
}

/** The text of a preset by its name, or of the policy in a file: one that loads. */
export async function policySource(name: string): Promise<string> {
  if (isPreset(name)) return policyText(name)
  const source = utf8Text(await readCapped(name, POLICY_CAP))
  if (source === null) throw new Malformed(`${name}: not UTF-8`, 'policy')
  try {
    parsePolicy(source)
  } catch (error) {
    throw error instanceof Malformed ? new Malformed(`${name}: ${error.reason.detail}`, 'policy') : error
  }
  return source
}
export const loadPolicy = async (name: string): Promise<Policy> => parsePolicy(await policySource(name))

/** Reference values in a file: a CoRIM, or the JSON that `pod measure` prints. */
export async function loadReferenceValues(path: string): Promise<UnsignedValues> {
  const bytes = await readCapped(path, REFERENCE_VALUES_CAP)
  try {
    if (isCorim(bytes)) return decodeCorim(bytes)
    const source = utf8Text(bytes)
    if (source === null) throw new Malformed('neither a CoRIM nor JSON')
    return parseReferenceValues(source)
  } catch (error) {
    throw error instanceof Malformed ? new Malformed(`${path}: ${error.reason.detail}`, 'reference-values') : error
  }
}

/** The text of a preset, to start a file of one's own from; or the schema of such files. */
export function policyText(name: string): string {
  if (name === 'schema') return JSON.stringify(schema, null, 2)
  if (isPreset(name)) return JSON.stringify(presets[name], null, 2)
  throw new Malformed(`no policy "${name}": expected ${Object.keys(presets).join(', ')} or schema`, 'data')
}
