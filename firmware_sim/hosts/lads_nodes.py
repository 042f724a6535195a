"""The nodes of a LADS device (OPC 30500-1, LADS 1.0.0): types, one photometric unit, and its results.

Node numbers and browse names are those of Opc.Ua.LADS.NodeSet2.xml v1.0.0 of 2023-11-30. The types are
there with their numbers and their states; their optional members are not. `Lock`, `Identification`
(Machinery) and `CurrentProgramTemplate` are left out. Beyond the nodeset, `ActiveProgram` also tells the
supervisory job and task of the run under way, and a result's `VariableSet` holds `Absorbance`,
`WavelengthNm` and `Positions`. These, and the names of the device, its unit, sensor, template and results,
are in the namespace `urn:labedge:firmware-sim`; all other browse names are in those of LADS, DI and OPC UA.

    Objects / DeviceSet / <name> / FunctionalUnitSet / PhotometricUnit
        FunctionalUnitState: CurrentState, RunningStateMachine, Start, StartProgram, Stop, Abort, Clear
        ProgramManager: ActiveProgram, ProgramTemplateSet / Absorbance, ResultSet / <run id> / VariableSet
        FunctionSet / AbsorbanceSensor: SensorValue, RawValue (the last reading)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from firmware_sim.hosts.opcua import (
    BASE_OBJECT,
    BASE_VARIABLE,
    NOTHING,
    OBJECTS,
    Argument,
    Callback,
    NodeId,
    QualifiedName,
    Server,
    Space,
    Variant,
    ua,
)
from firmware_sim.instruments.lads_photometer import TEMPLATE, LadsPhotometer, Run

DI_URI = "http://opcfoundation.org/UA/DI/"
LADS_URI = "http://opcfoundation.org/UA/LADS/"
OWN_URI = "urn:labedge:firmware-sim"
UNIT, SENSOR = "PhotometricUnit", "AbsorbanceSensor"

DEVICE_SET, DEVICE_TYPE, TOPOLOGY_ELEMENT_TYPE = 5001, 1002, 1001  # DI
TYPES = {
    "FunctionalUnitType": 1003,
    "FunctionType": 1004,
    "BaseSensorFunctionType": 1005,
    "ProgramManagerType": 1006,
    "AnalogScalarSensorFunctionType": 1016,
    "ProgramTemplateType": 1018,
    "ProgramTemplateSetType": 1019,
    "ResultSetType": 1020,
    "ResultType": 1021,
    "ResultFileSetType": 1022,
    "FunctionalUnitSetType": 1023,
    "FunctionSetType": 1026,
    "ActiveProgramType": 1040,
    "VariableSetType": 1041,
}
STATES = {
    "Aborted": (5160, 1),
    "Aborting": (5159, 2),
    "Clearing": (5143, 3),
    "Stopped": (5085, 4),
    "Running": (5099, 5),
    "Stopping": (5100, 6),
}
SUBSTATES = {
    "Complete": (5128, 1),
    "Completing": (5127, 2),
    "Execute": (5168, 3),
    "Held": (5124, 4),
    "Holding": (5123, 5),
    "Idle": (5120, 6),
    "Resetting": (5119, 7),
    "Starting": (5117, 8),
    "Suspended": (5121, 9),
    "Suspending": (5118, 10),
    "Unholding": (5125, 11),
    "Unsuspending": (5122, 12),
}
OPERATE = 5178
SAMPLE_INFO, KEY_VALUE = (3002, 5042), (3003, 5045)
START, START_PROGRAM, STOP, ABORT, CLEAR = 7004, 7010, 7112, 7078, 7079

STRING = ua.VariantType.String
_STRING, _LOCALIZED = ua.NodeId(ua.ObjectIds.String), ua.NodeId(ua.ObjectIds.LocalizedText)
_DOUBLE, _UINT32 = ua.NodeId(ua.ObjectIds.Double), ua.NodeId(ua.ObjectIds.UInt32)
_INT32, _UTC_TIME = ua.NodeId(ua.ObjectIds.Int32), ua.NodeId(ua.ObjectIds.UtcTime)
_DURATION = ua.NodeId(ua.ObjectIds.Duration)


class LadsNodes:
    """Builds the nodes of one photometer and keeps the ids of those that change, by name.

    `methods` are the callbacks of Start, StartProgram, Stop, Abort and Clear.
    """

    def __init__(self, photometer: LadsPhotometer, methods: Mapping[str, Callback]) -> None:
        self._photometer = photometer
        self._methods = methods
        self._di = self._lads = self._own = 0
        self._space: Space
        self._device_type = self._state_machine_type = self._substate_machine_type = NOTHING
        self.changing: dict[str, NodeId] = {}

    async def build(self, server: Server) -> Space:
        """Write everything but results; what the nodes are written with from now on."""
        self._di = await server.register_namespace(DI_URI)
        self._lads = await server.register_namespace(LADS_URI)
        self._own = await server.register_namespace(OWN_URI)
        self._space = Space(server, self._own)
        await self._build_types()
        devices = await self._space.object(
            OBJECTS, self._di_name("DeviceSet"), node_id=self._di_id(DEVICE_SET)
        )
        device = await self._build_device(devices)
        units = await self._part(device, "FunctionalUnitSet", "FunctionalUnitSetType")
        unit = await self._part(units, UNIT, "FunctionalUnitType", self._own)
        await self._build_state_machine(unit)
        await self._build_programs(unit)
        await self._build_sensor(unit)
        return self._space

    async def _build_types(self) -> None:
        space = self._space
        await space.structure(
            self._name("SampleInfoType"),
            ("ContainerId", "SampleId", "Position", "CustomData"),
            *map(self.id, SAMPLE_INFO),
        )
        await space.structure(self._name("KeyValueType"), ("Key", "Value"), *map(self.id, KEY_VALUE))
        topology = await space.object_type(
            BASE_OBJECT, self._di_name("TopologyElementType"), self._di_id(TOPOLOGY_ELEMENT_TYPE)
        )
        device = await space.object_type(topology, self._di_name("DeviceType"), self._di_id(DEVICE_TYPE))
        self._device_type = await space.object_type(device, self._name("LADSDeviceType"), self.id(1002))
        above = {"FunctionalUnitType": topology, "FunctionType": topology, "ProgramManagerType": topology}
        for name, number in TYPES.items():
            if name == "BaseSensorFunctionType":
                parent = self.id(TYPES["FunctionType"])
            elif name == "AnalogScalarSensorFunctionType":
                parent = self.id(TYPES["BaseSensorFunctionType"])
            else:
                parent = above.get(name, BASE_OBJECT)
            await space.object_type(parent, self._name(name), self.id(number))
        await self._build_state_types()

    async def _build_state_types(self) -> None:
        space, machine = self._space, ua.NodeId(ua.ObjectIds.FiniteStateMachineType)
        device = await space.object_type(machine, self._name("LADSDeviceStateMachineType"), self.id(1039))
        await self._build_states(device, {"Operate": (OPERATE, 2)})
        self._substate_machine_type = await space.object_type(
            machine, self._name("RunningStateMachineType"), self.id(1036)
        )
        await self._build_states(self._substate_machine_type, SUBSTATES)
        base = await space.object_type(machine, self._name("FunctionalStateMachineType"), self.id(1038))
        await self._build_states(base, STATES)
        self._state_machine_type = await space.object_type(
            base, self._name("FunctionalUnitStateMachineType"), self.id(1043)
        )
        # There is one unit on this server, so that the methods of the types may act on it too.
        await self._build_methods(base, self._state_machine_type, numbered=True)

    async def _build_states(self, machine: NodeId, states: Mapping[str, tuple[int, int]]) -> None:
        for name, (number, order) in states.items():
            state_type = ua.NodeId(ua.ObjectIds.StateType)
            state = await self._space.object(machine, self._name(name), state_type, self.id(number))
            value = ua.Variant(order, ua.VariantType.UInt32)
            await self._space.variable(state, ua.QualifiedName("StateNumber", 0), value, _UINT32)

    async def _build_methods(self, base: NodeId, unit: NodeId, numbered: bool = False) -> None:
        """Stop, Abort, Clear below `base`, Start and StartProgram below `unit`."""
        pairs = _argument("Properties", ua.NodeId(ua.ObjectIds.KeyValuePair), array=True)
        inputs = (
            _argument("ProgramTemplateId", _STRING),
            _argument("Properties", self.id(KEY_VALUE[0]), array=True),
            _argument("SupervisoryJobId", _STRING),
            _argument("SupervisoryTaskId", _STRING),
            _argument("Samples", self.id(SAMPLE_INFO[0]), array=True),
        )
        program = (inputs, (_argument("DeviceProgramRunId", _STRING),))
        for parent, name, number, arguments in (
            (base, "Stop", STOP, ((), ())),
            (base, "Abort", ABORT, ((), ())),
            (base, "Clear", CLEAR, ((), ())),
            (unit, "Start", START, ((pairs,), ())),
            (unit, "StartProgram", START_PROGRAM, program),
        ):
            node_id = self.id(number) if numbered else None
            await self._space.method(parent, self._name(name), self._methods[name], arguments, node_id)

    async def _build_device(self, devices: NodeId) -> NodeId:
        photometer, space = self._photometer, self._space
        device = await space.object(devices, ua.QualifiedName(photometer.name, self._own), self._device_type)
        for name, text in (("Manufacturer", "labedge"), ("Model", "Simulated plate photometer")):
            await space.variable(device, self._di_name(name), localized(text), _LOCALIZED)
        for name, text in (
            ("SerialNumber", photometer.serial),
            ("SoftwareRevision", "1.0.0"),
            ("HardwareRevision", "1"),
            ("DeviceRevision", "1"),
            ("DeviceManual", ""),
            ("DeviceClass", "Photometer"),
            ("AssetId", photometer.name),
            ("ProductInstanceUri", f"{OWN_URI}:{photometer.serial}"),
        ):
            await space.variable(device, self._di_name(name), ua.Variant(text, STRING), _STRING)
        revision = ua.Variant(0, ua.VariantType.Int32)
        await space.variable(device, self._di_name("RevisionCounter"), revision, _INT32)
        self.changing["DeviceHealth"] = await space.variable(
            device, self._di_name("DeviceHealth"), revision, _INT32, BASE_VARIABLE
        )
        machine = await space.object(device, self._name("DeviceState"), self.id(1039))
        current, identity = await self._build_current_state(machine)
        await space.write(current, localized("Operate"))
        await space.write(identity, ua.Variant(self.id(OPERATE)))
        return device

    async def _build_current_state(self, machine: NodeId) -> tuple[NodeId, NodeId]:
        state = await self._space.variable(
            machine,
            ua.QualifiedName("CurrentState", 0),
            localized(""),
            _LOCALIZED,
            ua.NodeId(ua.ObjectIds.FiniteStateVariableType),
        )
        identity = await self._space.variable(
            state, ua.QualifiedName("Id", 0), ua.Variant(NOTHING), ua.NodeId(ua.ObjectIds.NodeId)
        )
        return state, identity

    async def _build_state_machine(self, unit: NodeId) -> None:
        space, nodes = self._space, self.changing
        machine = await space.object(unit, self._name("FunctionalUnitState"), self._state_machine_type)
        nodes["State"], nodes["State/Id"] = await self._build_current_state(machine)
        name = ua.QualifiedName("EffectiveDisplayName", 0)
        nodes["State/EffectiveDisplayName"] = await space.variable(
            nodes["State"], name, localized(""), _LOCALIZED
        )
        order = ua.Variant(0, ua.VariantType.UInt32)
        number = ua.QualifiedName("Number", 0)
        nodes["State/Number"] = await space.variable(nodes["State"], number, order, _UINT32)
        sub = await space.object(machine, self._name("RunningStateMachine"), self._substate_machine_type)
        nodes["Substate"], nodes["Substate/Id"] = await self._build_current_state(sub)
        await self._build_methods(machine, machine)

    async def _build_programs(self, unit: NodeId) -> None:
        space = self._space
        manager = await self._part(unit, "ProgramManager", "ProgramManagerType")
        active = await self._part(manager, "ActiveProgram", "ActiveProgramType")
        duration = _DURATION
        for name, value, data_type, namespace in (
            ("DeviceProgramRunId", ua.Variant("", STRING), _STRING, self._lads),
            ("CurrentRuntime", ua.Variant(0.0), duration, self._lads),
            ("EstimatedRuntime", ua.Variant(0.0), duration, self._lads),
            ("CurrentStepName", localized(""), _LOCALIZED, self._lads),
            ("SupervisoryJobId", ua.Variant("", STRING), _STRING, self._own),
            ("SupervisoryTaskId", ua.Variant("", STRING), _STRING, self._own),
        ):
            qualified = ua.QualifiedName(name, namespace)
            self.changing[name] = await space.variable(active, qualified, value, data_type)
        templates = await self._part(manager, "ProgramTemplateSet", "ProgramTemplateSetType")
        await self._build_template(templates, ua.QualifiedName(TEMPLATE, self._own))
        results = await self._part(manager, "ResultSet", "ResultSetType")
        self.changing["ResultSet"] = results
        version = ua.QualifiedName("NodeVersion", 0)
        self.changing["ResultSet/NodeVersion"] = await space.variable(
            results, version, ua.Variant("", STRING), _STRING
        )

    async def _build_template(self, parent: NodeId, name: QualifiedName) -> None:
        template = await self._space.object(parent, name, self.id(TYPES["ProgramTemplateType"]))
        made = ua.Variant(datetime(2026, 1, 1, tzinfo=UTC), ua.VariantType.DateTime)
        for member, value, data_type in (
            ("DeviceTemplateId", ua.Variant(TEMPLATE, STRING), _STRING),
            ("Author", ua.Variant("labedge", STRING), _STRING),
            ("Version", ua.Variant("1", STRING), _STRING),
            ("Description", localized("Absorbance of wells at one or more wavelengths"), _LOCALIZED),
            ("Created", made, _UTC_TIME),
            ("Modified", made, _UTC_TIME),
        ):
            await self._space.variable(template, self._name(member), value, data_type)

    async def _build_sensor(self, unit: NodeId) -> None:
        space = self._space
        functions = await self._part(unit, "FunctionSet", "FunctionSetType")
        sensor = await self._part(functions, SENSOR, "AnalogScalarSensorFunctionType", self._own)
        enabled = ua.Variant(True, ua.VariantType.Boolean)
        await space.variable(sensor, self._name("IsEnabled"), enabled, ua.NodeId(ua.ObjectIds.Boolean))
        for name in ("SensorValue", "RawValue"):
            self.changing[name] = await space.variable(
                sensor,
                self._name(name),
                ua.Variant(0.0, ua.VariantType.Double),
                _DOUBLE,
                ua.NodeId(ua.ObjectIds.AnalogUnitRangeType),
            )
            unit_of = ua.EUInformation(DisplayName=ua.LocalizedText("AU"), UnitId=-1)
            for member, value, data_type in (
                ("EURange", ua.Range(Low=0.0, High=4.0), ua.ObjectIds.Range),
                ("EngineeringUnits", unit_of, ua.ObjectIds.EUInformation),
            ):
                variant = ua.Variant(value, ua.VariantType.ExtensionObject)
                qualified = ua.QualifiedName(member, 0)
                await space.variable(self.changing[name], qualified, variant, ua.NodeId(data_type))

    async def result(self, run: Run) -> NodeId:
        """Write the nodes of a run that has completed; its object."""
        space = self._space
        result = await space.object(
            self.changing["ResultSet"], ua.QualifiedName(run.run_id, self._own), self.id(TYPES["ResultType"])
        )
        members = {
            "DeviceProgramRunId": run.run_id,
            "SupervisoryJobId": run.job,
            "SupervisoryTaskId": run.task,
            "ApplicationUri": OWN_URI,
            "User": "",
        }
        for name, text in members.items():
            await space.variable(result, self._name(name), ua.Variant(text, STRING), _STRING)
        description = localized(f"{TEMPLATE} of {run.labware}")
        await space.variable(result, self._name("Description"), description, _LOCALIZED)
        for name, moment in (("Started", run.started), ("Stopped", run.stopped)):
            stamp = ua.Variant(moment, ua.VariantType.DateTime)
            await space.variable(result, self._name(name), stamp, _UTC_TIME)
        for name, seconds in (("TotalRuntime", run.spent_s), ("EstimatedRuntime", run.estimated_s)):
            value = ua.Variant(seconds * 1000.0, ua.VariantType.Double)
            await space.variable(result, self._name(name), value, _DURATION)
        await self._given(result, run)
        await self._part(result, "FileSet", "ResultFileSetType")
        await self._build_template(result, self._name("ProgramTemplate"))
        await self._values(result, run)
        return result

    async def _values(self, result: NodeId, run: Run) -> None:
        """The three arrays of equal length."""
        values = await self._part(result, "VariableSet", "VariableSetType")
        for name, listed, kind in (
            ("Absorbance", run.absorbance, ua.VariantType.Double),
            ("WavelengthNm", run.wavelength_nm, ua.VariantType.Double),
            ("Positions", run.positions, STRING),
        ):
            qualified, variant = ua.QualifiedName(name, self._own), ua.Variant(list(listed), kind)
            await self._space.variable(values, qualified, variant, ua.NodeId(kind.value), BASE_VARIABLE)

    async def _given(self, result: NodeId, run: Run) -> None:
        """What the caller said: samples and properties, as structures."""
        samples = [
            (sample.container_id, sample.sample_id, sample.position, sample.custom_data)
            for sample in run.samples
        ]
        for name, entries, (data_type, encoding) in (
            ("Samples", samples, SAMPLE_INFO),
            ("Properties", list(run.properties.items()), KEY_VALUE),
        ):
            objects = [_structure(self.id(encoding), entry) for entry in entries]
            variant = ua.Variant(objects, ua.VariantType.ExtensionObject, is_array=True)
            await self._space.variable(result, self._name(name), variant, self.id(data_type))

    async def _part(self, parent: NodeId, name: str, type_name: str, namespace: int | None = None) -> NodeId:
        qualified = ua.QualifiedName(name, self._lads if namespace is None else namespace)
        return await self._space.object(parent, qualified, self.id(TYPES[type_name]))

    def _name(self, name: str) -> QualifiedName:
        return ua.QualifiedName(name, self._lads)

    def _di_name(self, name: str) -> QualifiedName:
        return ua.QualifiedName(name, self._di)

    def id(self, number: int) -> NodeId:
        """A node of LADS by its number in the nodeset."""
        return ua.NodeId(number, self._lads)

    def _di_id(self, number: int) -> NodeId:
        return ua.NodeId(number, self._di)


def localized(text: str) -> Variant:
    return ua.Variant(ua.LocalizedText(text), ua.VariantType.LocalizedText)


def _argument(name: str, data_type: NodeId, array: bool = False) -> Argument:
    return ua.Argument(
        Name=name,
        DataType=data_type,
        ValueRank=1 if array else -1,
        ArrayDimensions=[0] if array else [],
        Description=ua.LocalizedText(name),
    )


def _structure(encoding: NodeId, texts: Sequence[str]) -> Any:
    """A structure of strings in OPC UA binary (OPC 10000-6, 5.2.2.4): length and UTF-8 of each."""
    encoded = [text.encode() for text in texts]
    body = b"".join(len(data).to_bytes(4, "little") + data for data in encoded)
    return ua.ExtensionObject(TypeId=encoding, Body=body)
