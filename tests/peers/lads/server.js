// A LADS device made of the published nodesets (DI, IA, AMB, Machinery, LADS) by node-opcua, on 127.0.0.1 only.
// usage: node server.js PORT STATE_DIR; prints `ready URL`, ends with its standard input.
"use strict";

const path = require("path");
const {
  DataType,
  MessageSecurityMode,
  OPCUACertificateManager,
  OPCUAServer,
  SecurityPolicy,
  StatusCodes,
  Variant,
  VariantArrayType,
  nodesets,
  promoteToStateMachine,
} = require("node-opcua");

const LADS = "http://opcfoundation.org/UA/LADS/";
const DI = "http://opcfoundation.org/UA/DI/";
const DEVICE_SET = 5001; // number of Objects/DeviceSet in the DI nodeset
const RUN_MS = 400;

function child(node, name) {
  const found = node.getChildByName(name);
  if (!found) throw new Error(`${node.browseName} has no ${name}`);
  return found;
}

function setText(node, name, text, dataType = DataType.LocalizedText) {
  child(node, name).setValueFromSource({ dataType, value: dataType === DataType.LocalizedText ? { text } : text });
}

class Unit {
  constructor(unit, resultType, namespace) {
    this.machine = promoteToStateMachine(child(unit, "FunctionalUnitState"));
    this.manager = child(unit, "ProgramManager");
    this.resultType = resultType;
    this.namespace = namespace;
    this.runs = 0;
    this.timer = null;
    this.machine.setState("Stopped");
    this.bind("StartProgram", (inputs) => this.startProgram(inputs));
    this.bind("Stop", () => this.leave("Running", "Stopped"));
    this.bind("Abort", () => this.leave("Running", "Aborted"));
    this.bind("Clear", () => this.leave("Aborted", "Stopped"));
  }

  get state() {
    return this.machine.currentStateNode.browseName.name;
  }

  bind(name, act) {
    child(this.machine, name).bindMethod((inputs, context, callback) => callback(null, act(inputs)));
  }

  leave(from, to) {
    if (this.state !== from) return { statusCode: StatusCodes.BadInvalidState };
    clearTimeout(this.timer);
    this.machine.setState(to);
    return { statusCode: StatusCodes.Good };
  }

  startProgram(inputs) {
    const [template, properties, job, task, samples] = inputs.map((input) => input.value);
    if (this.state !== "Stopped") return { statusCode: StatusCodes.BadInvalidState };
    if (template !== "Absorbance") return { statusCode: StatusCodes.BadNotFound };
    const pairs = Object.fromEntries((properties || []).map((pair) => [pair.key, pair.value]));
    const run = `run-${++this.runs}`;
    const wavelengths = (pairs.wavelengths_nm || pairs.wavelength_nm || "450").split(",").map(Number);
    this.machine.setState("Running");
    this.timer = setTimeout(() => {
      this.keep(run, job, task, wavelengths, samples || []);
      this.machine.setState("Stopped");
    }, RUN_MS);
    return {
      statusCode: StatusCodes.Good,
      outputArguments: [new Variant({ dataType: DataType.String, value: run })],
    };
  }

  keep(run, job, task, wavelengths, samples) {
    const result = this.resultType.instantiate({
      browseName: { name: run, namespaceIndex: this.namespace.index },
      componentOf: child(this.manager, "ResultSet"),
      optionals: ["DeviceProgramRunId"],
    });
    setText(result, "SupervisoryJobId", job, DataType.String);
    setText(result, "SupervisoryTaskId", task, DataType.String);
    setText(result, "DeviceProgramRunId", run, DataType.String);
    if (samples.length) {
      child(result, "Samples").setValueFromSource({
        dataType: DataType.ExtensionObject,
        arrayType: VariantArrayType.Array,
        value: samples,
      });
    }
    const values = { Absorbance: wavelengths.map((nm) => nm / 1000), Wavelength: wavelengths };
    for (const [name, value] of Object.entries(values)) {
      this.namespace.addVariable({
        browseName: name,
        componentOf: child(result, "VariableSet"),
        dataType: DataType.Double,
        valueRank: 1,
        value: { dataType: DataType.Double, arrayType: VariantArrayType.Array, value: Float64Array.from(value) },
      });
    }
  }
}

function build(addressSpace) {
  const lads = addressSpace.getNamespaceIndex(LADS);
  const namespace = addressSpace.getOwnNamespace();
  const type = (name) => addressSpace.findObjectType(name, lads);
  const device = type("LADSDeviceType").instantiate({
    browseName: { name: "Photometer", namespaceIndex: namespace.index },
    componentOf: addressSpace.findNode(`ns=${addressSpace.getNamespaceIndex(DI)};i=${DEVICE_SET}`),
  });
  setText(device, "Manufacturer", "Peer Instruments");
  setText(device, "Model", "P-1");
  setText(device, "SerialNumber", "4711", DataType.String);
  setText(device, "SoftwareRevision", "1.2.3", DataType.String);
  const unit = type("FunctionalUnitType").instantiate({
    browseName: { name: "Reader", namespaceIndex: namespace.index },
    componentOf: child(device, "FunctionalUnitSet"),
    optionals: [
      "FunctionSet",
      "ProgramManager",
      ...["StartProgram", "Stop", "Abort", "Clear"].map((name) => `FunctionalUnitState.${name}`),
    ],
  });
  return new Unit(unit, type("ResultType"), namespace);
}

async function main() {
  const [port, stateDir] = process.argv.slice(2);
  const pki = (name) =>
    new OPCUACertificateManager({ rootFolder: path.join(stateDir, name), automaticallyAcceptUnknownCertificate: true });
  const server = new OPCUAServer({
    port: Number(port),
    host: "127.0.0.1",
    hostname: "127.0.0.1",
    nodeset_filename: [nodesets.standard, nodesets.di, nodesets.ia, nodesets.amb, nodesets.machinery, nodesets.lads],
    serverCertificateManager: pki("server"),
    userCertificateManager: pki("users"),
    securityModes: [MessageSecurityMode.None],
    securityPolicies: [SecurityPolicy.None],
    disableDiscovery: true,
  });
  await server.initialize();
  build(server.engine.addressSpace);
  await server.start();
  console.log(`ready opc.tcp://127.0.0.1:${port}`);
  process.stdin.resume();
  process.stdin.on("end", async () => {
    await server.shutdown(0);
    process.exit(0);
  });
}

main().catch((problem) => {
  console.error(problem);
  process.exit(1);
});
